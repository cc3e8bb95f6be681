"""Many findings at once: which of them stand when all their tests are counted."""
