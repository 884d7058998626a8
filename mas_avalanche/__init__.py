"""Memory Aware Synapses for Avalanche."""
