"""What a model costs: operations, parameters, activations, memory traffic, energy; by layer, and by unit."""

from __future__ import annotations

from keras_prune.layer_costs.energy import Energy
from keras_prune.layer_costs.table import Costs, LayerCosts, costs
from keras_prune.layer_costs.units import ChannelCosts, channel_costs, unit_costs

__all__ = ["ChannelCosts", "Costs", "Energy", "LayerCosts", "channel_costs", "costs", "unit_costs"]
