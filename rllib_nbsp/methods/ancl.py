"""ANCL: beside the pull to the old weights, a pull to those of an auxiliary network that learned the new task freely.

Kim et al. 2023 in the form A-EWC: `lam/2 sum_p F_p (w_p - w_o,p)^2 + lam_a/2 sum_p F_a,p (w_p - w_a,p)^2`. The old
anchor w_o and F are EWC's; w_a and F_a are the auxiliary network's, which starts each visit from the old weights, has
no regulariser and is forgotten at the visit's end. The first visit is plain SAC.

Differences from the source:
- The auxiliary network is a whole SAC: either it has the visit's budget of environment steps for itself before the
  main run (`aux: two_phase`), or it learns from the main run's batches beside it (`concurrent`), without more steps. In
  the source both networks learn from one data set, one after the other.
- Its optimizer is like the main one; the source's has a momentum and a weight decay of its own.
- The Fisher information is exact, of the policy's own distribution, on rows of the visit; the source squares gradients
  of a batch's mean for the true labels, over all the data, which underestimates it.
- The Fisher information has EWC's floor, in the source none (`floor: 0.0`).
- The actor alone is regularised, as in Continual World; the source has one network (`critic: true` adds the critics).
- The first visit's information counts in full; the source merges it with zeros, which halves it.
- One head for all tasks, so the output layer is regularised too (`reg_output_layer: false` leaves it free).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from rllib_nbsp.curriculum import Phase, Visit
from rllib_nbsp.methods.agent import Agent, Batch, Twin, VisitData
from rllib_nbsp.methods.base import ContinualMethod, register_method
from rllib_nbsp.methods.parts.consolidation import FisherEstimate, FisherSettings, Merge, PerWeight, QuadraticPull
from rllib_nbsp.settings import NonNegativeFloat, PositiveInt, ReplaySettings, RunSettings

AUXILIARY, MAIN = "auxiliary", "main"


class ANCLSettings(FisherSettings):
    """The method's keys."""

    lam: NonNegativeFloat = 2e4
    """Strength of the pull to the old weights; twice EWC's `coef`, as the loss has a factor 1/2."""
    lam_a: NonNegativeFloat | None = None
    """Strength of the pull to the auxiliary weights; None: `lam / 1000`, the source's ratio. 0 is EWC, without an
    auxiliary network."""
    aux: Literal["two_phase", "concurrent"] = "two_phase"
    """The auxiliary network has a run of its own before the main one, or learns beside it from its batches (those of
    D_pre included, if there is replay)."""
    refresh_updates: PositiveInt = 20_000
    """For `concurrent`: updates after which w_a is taken anew, and F_a from the last `fisher_batches` batches; before
    the first time, nothing pulls to w_a."""
    merge: Merge = "ema"
    """The old Fisher information over visits: half the old and half the new (the source's), a sum, or a mean."""
    reg_output_layer: bool = True
    """Pull the output layers too."""

    @property
    def auxiliary_lam(self) -> float:
        """`lam_a` or what it is by default."""
        return self.lam / 1000 if self.lam_a is None else self.lam_a


class AuxiliaryNetworks(ContinualMethod):
    """Weights settle between what earlier tasks need and what the new one would like."""

    Config = ANCLSettings
    visit_data_rows = 10_000

    def __init__(self, config: ANCLSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.old = QuadraticPull(agent)
        self.auxiliary = QuadraticPull(agent)
        self.start: dict[str, Any] = {}
        """What the main run starts from, kept while the auxiliary run uses the agent."""
        self.companion: tuple[Twin, FisherEstimate] | None = None
        """The auxiliary network that learns beside the agent, and its Fisher information as it is being measured."""

    # Declarations

    @classmethod
    def check(cls, config: ANCLSettings, settings: RunSettings) -> list[str]:
        if config.aux == "two_phase" or not config.auxiliary_lam:
            return []
        errors = []
        if config.refresh_updates < config.fisher_batches:
            errors.append(
                f"refresh_updates is {config.refresh_updates}; it must be at least fisher_batches, "
                f"{config.fisher_batches}, from which F_a is measured"
            )
        updates = settings.updates_within(2) - settings.updates_within(1)  # nothing learns beside the first visit
        if config.refresh_updates > updates:
            errors.append(
                f"refresh_updates is {config.refresh_updates}; a visit has at most {updates} updates, so that nothing "
                "would ever pull to the auxiliary network"
            )
        return errors

    @classmethod
    def idle_in_first_visit(cls, config: ANCLSettings) -> bool:
        return True

    @classmethod
    def phases(cls, config: ANCLSettings, visit: Visit) -> list[Phase]:
        if visit.number == 1 or config.aux == "concurrent" or not config.auxiliary_lam:
            return [Phase()]
        return [Phase(AUXILIARY), Phase(MAIN, fresh=True)]

    @classmethod
    def no_graph(cls, config: ANCLSettings) -> str | None:
        beside = config.aux == "concurrent" and config.auxiliary_lam
        return "aux 'concurrent' counts the updates of a second network within each" if beside else None

    # Hooks of a visit

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        if visit.number == 1 or not self.config.auxiliary_lam:
            return
        if self.config.aux == "two_phase":
            self.start = self.agent.snapshot()
        else:
            self.companion = self._new_companion()

    def on_phase_end(self, visit: Visit, phase: Phase, data: VisitData) -> None:
        if phase.name == AUXILIARY:
            self.auxiliary.consolidate(self._measure(data), self.config.merge)
            self.agent.restore(self.start)
            self.start = {}

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        self.old.consolidate(self._measure(data), self.config.merge)
        self.auxiliary = QuadraticPull(self.agent)
        self.companion = None

    def _measure(self, data: VisitData) -> PerWeight:
        estimate = self._new_estimate(self.agent)
        estimate.add_visit(data)
        return estimate.mean()

    def _new_estimate(self, agent: Agent) -> FisherEstimate:
        return FisherEstimate(agent, self.config, heads=self.config.reg_output_layer)

    def _new_companion(self) -> tuple[Twin, FisherEstimate]:
        assert self.agent.twin is not None
        twin = self.agent.twin()
        return twin, self._new_estimate(twin)

    # Hooks of an update

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        if self.start:
            return {}  # the auxiliary run
        terms = {name: 0.5 * self.config.lam * penalty for name, penalty in self.old.penalties().items()}
        for name, penalty in self.auxiliary.penalties().items():
            terms[name] = terms[name] + 0.5 * self.config.auxiliary_lam * penalty
        return terms

    def after_step(self, batch: Batch) -> None:
        if self.companion is None or "qf" not in batch.moving:
            return
        twin, estimate = self.companion
        twin.update(batch)
        left = -twin.updates % self.config.refresh_updates
        if left < self.config.fisher_batches:
            estimate.add(batch)
        if left == 0:
            self.auxiliary = QuadraticPull(self.agent)  # taken anew, never merged
            self.auxiliary.consolidate(estimate.mean(), self.config.merge, twin.networks)
            self.companion = twin, self._new_estimate(twin)

    # Records and state

    def metrics(self) -> dict[str, float]:
        return {**self.old.metrics("ancl_old_penalty"), **self.auxiliary.metrics("ancl_aux_penalty")}

    def get_state(self) -> dict[str, Any]:
        state = {"old": self.old.get_state(), "auxiliary": self.auxiliary.get_state(), "start": self.start}
        if self.companion is not None:
            twin, estimate = self.companion
            state |= {"twin": twin.get_state(), "estimate": estimate.get_state()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        self.old.set_state(state["old"])
        self.auxiliary.set_state(state["auxiliary"])
        self.start = state["start"]
        self.companion = None
        if "twin" in state:
            twin, estimate = self.companion = self._new_companion()
            twin.set_state(state["twin"])
            estimate.set_state(state["estimate"])


register_method("ancl", AuxiliaryNetworks)
