"""The fault plan: what can happen to a run, and the tests that have it happen.

A row whose fault needs what is not there yet, or cannot be had here, says why under `open`. No row passes without a
test that ran.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ENVIRONMENTS, WORKERS, STUDIES, FILES = (
    f"tests/faults/test_{name}.py::test_" for name in ("environments", "workers", "studies", "files")
)
VECTOR, ROLLOUT = "tests/sampling/test_vector.py::test_", "tests/sampling/test_rollout_workers.py::test_"
FOLDER, RUN_TUNE = "tests/study/test_folder.py::test_", "tests/study/test_run_tune.py::test_"
NODES = "tests/cluster/test_lost_nodes.py::test_"
RESUME, CHECKPOINT, BUNDLE = (
    f"tests/{name}.py::test_" for name in ("resume/test_going_on", "resume/test_checkpoints", "state/test_bundle")
)


@dataclass(frozen=True)
class Row:
    """A fault.

    Attributes:
        number: in the plan.
        fault: what happens.
        ends: how a run must take it: it goes on, or ends with an error that says what and where.
        tests: node ids, without parameters.
        open: what of it has no test, and why.
    """

    number: str
    fault: str
    ends: Literal["survives", "clean error", "both"]
    tests: tuple[str, ...] = ()
    open: str = ""


def _row(number: int, fault: str, ends: Literal["survives", "clean error", "both"], *tests: str, open: str = "") -> Row:
    return Row(f"F{number:02d}", fault, ends, tests, open)


ROWS = (
    _row(1, "an environment's step raises now and then", "survives",
         ENVIRONMENTS + "an_environment_that_fails_now_and_then",
         VECTOR + "a_failed_step_leaves_no_row_and_its_sub_environment_starts_again_with_a_new_seed",
         VECTOR + "no_row_mixes_two_episodes_under_random_failures"),
    _row(2, "a reset raises, once or always", "both",
         ENVIRONMENTS + "a_reset_that_fails_once", VECTOR + "a_reset_is_tried_four_times",
         ENVIRONMENTS + "an_environment_that_fails_for_good_ends_the_run_and_says_where"),
    _row(3, "an exception without arguments", "both",
         ENVIRONMENTS + "an_environment_that_fails_now_and_then",
         ENVIRONMENTS + "an_environment_that_fails_for_good_ends_the_run_and_says_where"),
    _row(4, "one of two rollout workers hangs", "survives",
         WORKERS + "a_worker_that_hangs_for_ever_is_started_anew",
         ROLLOUT + "a_hung_worker_is_started_anew_while_the_other_goes_on"),
    _row(5, "the only rollout worker hangs", "both",
         WORKERS + "a_worker_that_hangs_for_ever_is_started_anew", ROLLOUT + "a_run_ends_when_no_worker_answers"),
    _row(6, "kill -9 of a rollout worker in a fragment, at 20 moments", "survives",
         WORKERS + "a_worker_is_killed_in_the_middle_of_a_fragment",
         ROLLOUT + "the_only_worker_killed_in_the_middle_of_a_fragment_costs_a_fragment"),
    _row(7, "kill -9 of an idle rollout worker", "survives",
         WORKERS + "an_idle_worker_is_killed_in_the_second_visit",
         "tests/sampling/test_env_runner.py::test_an_idle_killed_env_runner_brings_no_wrong_task_transition"),
    _row(8, "environments cannot be built, in this process or a worker", "clean error",
         ENVIRONMENTS + "a_worker_whose_environments_cannot_be_built_ends_the_run",
         ENVIRONMENTS + "an_environment_that_fails_for_good_ends_the_run_and_says_where"),
    _row(9, "NaN in an observation", "both",
         ENVIRONMENTS + "an_environment_that_fails_now_and_then",
         ENVIRONMENTS + "an_environment_that_fails_for_good_ends_the_run_and_says_where",
         VECTOR + "one_observation_with_nan_costs_its_episode_and_no_row_holds_it"),
    _row(10, "an infinite reward", "both",
         ENVIRONMENTS + "an_environment_that_fails_now_and_then",
         ENVIRONMENTS + "an_environment_that_fails_for_good_ends_the_run_and_says_where",
         ROLLOUT + "an_environment_that_cannot_go_on_in_a_remote_worker_ends_the_run_at_once"),
    _row(11, "a value of a wrong shape or type", "clean error",
         ENVIRONMENTS + "an_environment_that_fails_for_good_ends_the_run_and_says_where",
         VECTOR + "values_of_a_wrong_kind_are_refused_at_once"),
    _row(12, "a rollout worker is late once", "survives",
         WORKERS + "a_worker_that_is_stopped_for_a_while_is_late_and_goes_on"),
    _row(13, "kill -9 of the only remote Learner", "clean error",
         WORKERS + "a_lost_learner_ends_the_run_at_once_and_may_pass",
         STUDIES + "a_trial_whose_processes_are_killed_starts_again_and_no_row_is_there_twice"),
    _row(14, "kill -9 of one of two Learners", "clean error",
         WORKERS + "a_lost_learner_ends_the_run_at_once_and_may_pass",
         open="as a trial of a study, which goes on as in F13"),
    _row(15, "kill -9 of a trial's process under Ray Tune", "survives",
         STUDIES + "a_trial_whose_processes_are_killed_starts_again_and_no_row_is_there_twice",
         "tests/study/test_faults.py::test_what_will_come_again_ends_its_trial_and_a_lost_process_starts_anew",
         "tests/resume/test_studies.py::test_a_trial_whose_process_is_killed_goes_on_in_the_same_study"),
    _row(16, "kill -9 of the driver, at 20 random moments and as its second trial starts", "survives",
         STUDIES + "a_killed_driver_has_said_how_to_go_on_and_the_resumed_rows_are_those_of_a_run_that_never_stopped",
         STUDIES
         + "a_driver_killed_at_twenty_random_moments_leaves_a_whole_state_and_the_rows_of_a_run_that_never_stopped"),
    _row(17, "kill -9 of the driver while Tune prunes checkpoints", "survives",
         "tests/resume/test_killed.py::test_a_killed_run_ends_as_one_that_never_stopped",
         open="Tune keeps no checkpoints of ours; a run is killed as it writes and prunes its own states"),
    _row(18, "SIGTERM", "survives", RUN_TUNE + "a_signal_stops_the_trials_and_the_study_can_be_resumed",
         RESUME + "a_signal_waits_for_the_state",
         "tests/resume/test_studies.py::test_a_study_goes_on_where_it_was_cut_off"),
    _row(19, "SIGINT, once and twice", "survives",
         RUN_TUNE + "a_signal_stops_the_trials_and_the_study_can_be_resumed", RESUME + "a_signal_waits_for_the_state",
         RESUME + "a_second_signal_does_not_wait",
         STUDIES + "a_study_that_is_interrupted_twice_ends_at_once_and_can_be_resumed"),
    _row(20, "SIGSTOP and SIGCONT of a rollout worker", "survives",
         WORKERS + "a_worker_that_is_stopped_for_a_while_is_late_and_goes_on", open="of a Learner or the driver"),
    _row(21, "a node with all rollout workers is lost, and another comes", "survives",
         ROLLOUT + "a_lost_node_costs_a_fragment_and_not_the_run"),
    _row(22, "a lost node never comes back", "both", ROLLOUT + "a_run_ends_when_no_worker_answers",
         NODES + "a_rollout_workers_node_that_never_comes_back_costs_that_worker_alone"),
    _row(23, "the node of a Learner or trial is lost", "survives",
         NODES + "the_node_of_a_trial_or_of_its_learner_is_lost_and_the_trial_goes_on_on_another"),
    _row(24, "kill -9 of Ray's control service (GCS)", "clean error",
         STUDIES + "a_lost_cluster_is_said_with_the_command_that_goes_on",
         "tests/study/test_cluster_watch.py::test_a_cluster_that_answers_no_more_ends_the_process_and_says_how_to_go_on"),
    _row(25, "a network that is cut, or loses packets", "survives",
         "tests/cluster/test_network.py::test_packets_that_are_lost_cost_time_and_a_cut_costs_a_fragment"),
    _row(26, "a file of the state is truncated", "both",
         CHECKPOINT + "whatever_was_done_to_a_file_is_found_and_named",
         RESUME + "a_damaged_state_is_said_and_the_one_before_it_taken"),
    _row(27, "a bit of the state flips", "both",
         CHECKPOINT + "whatever_was_done_to_a_file_is_found_and_named",
         RESUME + "a_damaged_state_is_said_and_the_one_before_it_taken"),
    _row(28, "a file of the state is missing", "clean error",
         CHECKPOINT + "whatever_was_done_to_a_file_is_found_and_named"),
    _row(29, "a pickle is planted in the state", "clean error",
         "tests/state/test_packing.py::test_foreign_arrays_are_refused_before_memory_is_taken",
         CHECKPOINT + "whatever_was_done_to_a_file_is_found_and_named"),
    _row(30, "a state of a newer schema", "clean error", BUNDLE + "a_manifest_of_another_form_is_refused"),
    _row(31, "the last row is cut, or followed by zeros", "survives",
         "tests/analysis/test_rows.py::test_torn_last_line_keeps_the_other_rows",
         "tests/analysis/test_rows.py::test_byte_order_mark_crlf_blank_lines_and_nul_padding_do_not_matter"),
    _row(32, "rows twice after a resume", "survives",
         "tests/analysis/test_load.py::test_duplicate_rows_keep_the_last_and_are_counted",
         "tests/analysis/test_load.py::test_a_visit_that_ended_twice_after_a_resume_counts_as_written_last"),
    _row(33, "Tune's own state is truncated", "survives", FILES + "a_torn_state_of_tune_keeps_nothing_from_going_on"),
    _row(34, "the disk of the results is full", "both",
         STUDIES + "a_full_disk_ends_its_trial_with_the_bytes_that_it_needs_and_the_others_go_on",
         STUDIES + "a_study_whose_disk_is_full_says_so_and_goes_on_once_there_is_room",
         "tests/study/test_needs.py::test_too_little_disk_is_refused_with_the_numbers"),
    _row(35, "the disk of Ray's session is full", "clean error",
         STUDIES + "a_full_disk_under_rays_session_is_told_in_a_line"),
    _row(36, "the results are read-only, from the start or suddenly", "clean error",
         STUDIES + "results_that_become_read_only_end_their_trial_and_say_so",
         FILES + "a_read_only_folder_is_refused_before_anything_starts",
         FOLDER + "a_results_dir_that_is_a_file_is_refused"),
    _row(37, "the wall clock jumps", "survives", WORKERS + "a_clock_that_jumps_changes_nothing"),
    _row(38, "more memory is needed than there is", "clean error",
         "tests/study/test_needs.py::test_too_little_memory_is_refused_with_the_numbers",
         RUN_TUNE + "an_error_is_told_in_lines_with_its_exit_code",
         open="the out-of-memory killer itself; to a trial it is F15"),
    _row(39, "two runs write to one folder", "clean error",
         FILES + "a_second_process_is_kept_from_a_trials_folder", RUN_TUNE + "a_study_in_use_is_left_alone",
         FILES + "rows_that_another_has_touched_end_the_run"),
    _row(40, "resumed with other numbers of workers or Learners", "survives",
         RESUME + "another_number_of_workers_keeps_all_but_the_running_episodes",
         RESUME + "another_number_of_learners_keeps_everything"),
    _row(41, "resumed with other settings", "clean error",
         FOLDER + "results_of_other_settings_are_refused_with_what_changed"),
    _row(42, "resumed with other versions", "both",
         "tests/study/test_versions.py::test_a_study_is_resumed_with_the_versions_that_it_was_begun_with"),
    _row(43, "Ray's object store is too small", "survives",
         "tests/faults/test_object_store.py::test_a_store_that_is_too_small_costs_time_and_changes_nothing"),
    _row(44, "the analysis reads while a run writes", "survives", FILES + "rows_are_read_while_they_are_written"),
    _row(45, "a rollout worker is killed in an evaluation", "survives",
         WORKERS + "a_worker_is_killed_in_an_evaluation"),
    _row(46, "many visits: memory and open files", "survives",
         "tests/benchmarks/test_soak.py::test_a_run_of_many_visits_keeps_its_memory_and_its_files"),
    _row(47, "the results folder is removed during a run", "clean error",
         STUDIES + "results_that_are_removed_end_their_trial_and_the_study_says_so",
         FILES + "a_folder_that_is_removed_ends_the_run"),
    _row(48, "a hook of a method, or a plugin, wants to end the program", "clean error",
         "tests/study/test_faults.py::test_an_exit_in_a_hook_is_the_methods_error",
         "tests/study/test_faults.py::test_an_exit_in_a_hook_of_a_remote_learner_is_the_methods_error"),
)  # fmt: skip
"""F01 to F46 are the plan's; what follows was seen since."""
