"""The methods by name. A new one of ours costs its file, a line here, a YAML and a test file."""

from __future__ import annotations

from rllib_nbsp.methods.agem import AveragedGradientEpisodicMemory
from rllib_nbsp.methods.ancl import AuxiliaryNetworks
from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.methods.cbp import ContinualBackpropagation
from rllib_nbsp.methods.cloning import BehaviouralCloning
from rllib_nbsp.methods.cotasp import SparsePrompting
from rllib_nbsp.methods.crelu import ConcatenatedReLU
from rllib_nbsp.methods.ewc import ElasticWeightConsolidation
from rllib_nbsp.methods.l2 import L2Regularization
from rllib_nbsp.methods.nbsp import NeuronLevelBalance
from rllib_nbsp.methods.npc import NeuronPlasticityControl
from rllib_nbsp.methods.packnet import PackNet
from rllib_nbsp.methods.plasticity_injection import PlasticityInjection
from rllib_nbsp.methods.redo import DormantNeuronRecycling
from rllib_nbsp.registry import Registry

METHODS: Registry[type[ContinualMethod]] = Registry(
    "method",
    {
        "sac": ContinualMethod,
        "nbsp": NeuronLevelBalance,
        "ewc": ElasticWeightConsolidation,
        "l2": L2Regularization,
        "ancl": AuxiliaryNetworks,
        "npc": NeuronPlasticityControl,
        "crelu": ConcatenatedReLU,
        "plasticity_injection": PlasticityInjection,
        "cbp": ContinualBackpropagation,
        "redo": DormantNeuronRecycling,
        "agem": AveragedGradientEpisodicMemory,
        "cloning": BehaviouralCloning,
        "cotasp": SparsePrompting,
        "packnet": PackNet,
    },
)


def register_method(name: str, method: type[ContinualMethod]) -> type[ContinualMethod]:
    """Make a method known by a name.

    Raises:
        ValueError: if another method has that name.
    """
    return METHODS.register(name, method)
