"""The methods by name. A new one costs its file, a line here, a YAML and a test file."""

from __future__ import annotations

from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.methods.ewc import ElasticWeightConsolidation
from rllib_nbsp.methods.nbsp import NeuronMasking

METHODS: dict[str, type[ContinualMethod]] = {
    "sac": ContinualMethod,
    "nbsp": NeuronMasking,
    "ewc": ElasticWeightConsolidation,
}
