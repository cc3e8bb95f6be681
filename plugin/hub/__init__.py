"""Publishing on the Hugging Face Hub: layout, card, upload, read-back.

Tested against a server that speaks the Hub's protocol, by the LFS route (`HF_HUB_DISABLE_XET=1`). Uploads
through Xet, huggingface_hub's default where `hf_xet` is installed, go through the same `create_commit` and
the same read-back, but are untested.
"""

from graticule.hub.pushing import Push, push
from graticule.hub.remote import HubError, ReadBackError

__all__ = ["HubError", "Push", "ReadBackError", "push"]
