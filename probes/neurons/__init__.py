"""Single neurons: which of them read, write or carry a target, and whether their basis is special in it."""
