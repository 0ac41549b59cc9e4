"""RLlib's module around the agent's networks."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from rllib_nbsp.run import ResolvedRun, run_settings
from rllib_nbsp.sac.actor_critic import ActorCritic, DiscreteActorCritic


class ContinualSACModule(ActorCritic, TorchRLModule, InferenceOnlyAPI):
    """`ActorCritic` as RLlib wants it; an inference-only one has the actor alone.

    `model_config` has the run's settings under "run".
    """

    # RLlib's constructor sets them.
    observation_space: Any
    action_space: Any
    inference_only: Any
    model_config: Any

    def setup(self) -> None:
        """Build the networks."""
        settings = run_settings(**self.model_config["run"])
        run = ResolvedRun(settings, (self.observation_space, self.action_space))
        self.build(run, acts_only=self.inference_only)

    def get_non_inference_attributes(self) -> list[str]:
        """What rollout workers do not need."""
        return ["qf", "qf_twin", "target_qf", "target_qf_twin", "log_alpha"]

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.act(batch[Columns.OBS], explore=False, task=batch.get("task"))}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.act(batch[Columns.OBS], explore=True, task=batch.get("task"))}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self.sac_pass(batch)


class DiscreteSACModule(DiscreteActorCritic, ContinualSACModule):
    """The same for discrete actions."""
