"""n:m sparse weights, packed: what stays, and two bits for where it was."""

from .api import nm_pack, nm_unpack

__all__ = ["nm_pack", "nm_unpack"]
