"""From token ids to hidden states: packed rows, fused blocks, plain rows."""
