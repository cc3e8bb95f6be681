"""What a push did, or would do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Push:
    """One push, in words and numbers."""

    repo: str
    """`owner/name`."""
    revision: str
    """The branch."""
    ids: tuple[str, ...]
    """A folder each in the repository: SAELens's `sae_id`."""
    files: tuple[tuple[str, int], ...]
    """Path in the repository and size in bytes."""
    card: str
    """`README.md`."""
    commit: str | None
    """The commit that was read back; None after a dry run."""
    changed: bool
    """Whether that commit is new: False if the repository held all of it."""
    private: bool
    """Whether the repository is private now (after a dry run: would be)."""
    replaced: tuple[str, ...] = ()
    """Ids that were there before, with other content."""
    url: str | None = None
    """Where it is; None after a dry run."""

    def summary(self) -> str:
        """What went where, every file with its size; after a dry run with the card."""
        seen = "private" if self.private else "public"
        total = sum(size for _, size in self.files)
        sizes = [f"  {size:>12,}  {path}" for path, size in self.files]
        if self.commit is None:
            head = f"dry run: nothing was sent. {self.repo} ({self.revision}) would be {seen} and receive"
            return "\n".join([head, *sizes, f"  {total:>12,}  bytes in all", "", "README.md:", "", self.card])
        what = "pushed and read back" if self.changed else "nothing has changed; read back"
        at = f"commit {self.commit[:12]} of {self.revision}"
        lines = [
            f"{what}: {', '.join(self.ids)} in {self.repo}, {seen}, {at}",
            f"{len(self.files)} files, {total:,} bytes, every tensor equal",
            *sizes,
        ]
        if self.replaced:
            lines.append(f"replaced what {', '.join(self.replaced)} held before")
        return "\n".join([*lines, str(self.url)])
