"""What a probe says outside the rows, blocks and prompts that it was fitted on."""
