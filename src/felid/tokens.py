"""The one place that knows how codes, users and special marks become token ids.

0 = padding, 1 = begin (what the decoder reads first), then sizes[0] tokens for level 0, sizes[1] for level 1, ...,
then `num_user_buckets` user tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.errors import SemanticIdError

PAD = 0
BEGIN = 1
NUM_SPECIAL = 2


@dataclass(frozen=True)
class TokenLayout:
    """Token ids of a model: code <-> token, special marks, user buckets.

    Attributes:
        sizes: number of codes per level.
        num_user_buckets: user tokens; 0 = the model reads no user token.
    """

    sizes: tuple[int, ...]
    num_user_buckets: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or self.num_user_buckets < 0:
            raise SemanticIdError(f"sizes {self.sizes} and {self.num_user_buckets} user buckets; each level needs a code or more")

    @property
    def num_levels(self) -> int:
        return len(self.sizes)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(L,) first token of each level."""
        return np.array([self.level_tokens(level).start for level in range(self.num_levels)], np.int64)

    def level_tokens(self, level: int) -> slice:
        """The tokens of one level."""
        first = NUM_SPECIAL + sum(self.sizes[:level])
        return slice(first, first + self.sizes[level])

    @property
    def user_offset(self) -> int:
        """First user token."""
        return NUM_SPECIAL + sum(self.sizes)

    @property
    def vocabulary_size(self) -> int:
        return self.user_offset + self.num_user_buckets

    def encode(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """(..., L) codes to tokens; a code outside its level is an error."""
        codes = np.asarray(codes, np.int64)
        if codes.shape[-1] != self.num_levels:
            raise SemanticIdError(
                f"codes have {codes.shape[-1]} levels, expected {self.num_levels}; rebuild the layout from codes"
            )
        if ((codes < 0) | (codes >= np.asarray(self.sizes))).any():
            raise SemanticIdError(f"a code lies outside its level; sizes are {self.sizes}")
        return codes + self.offsets

    def decode(self, tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        """(..., L) tokens to codes; a token of another level, a user or a mark is an error, never a wrong code."""
        tokens = np.asarray(tokens, np.int64)
        if tokens.shape[-1] != self.num_levels:
            raise SemanticIdError(f"got {tokens.shape[-1]} tokens per ID, expected {self.num_levels}; one for each level")
        codes = tokens - self.offsets
        if ((codes < 0) | (codes >= np.asarray(self.sizes))).any():
            raise SemanticIdError("a token is not a code of its level; it cannot be turned into a semantic ID")
        return codes

    def user_token(self, user_id: int | str) -> int:
        """Token of a user's bucket: the same in every process and on every machine, unlike Python's `hash`."""
        if not self.num_user_buckets:
            raise SemanticIdError("this layout has no user tokens; set user_buckets above 0")
        hashed = hashlib.blake2b(str(user_id).encode(), digest_size=8).digest()
        return self.user_offset + int.from_bytes(hashed, "little") % self.num_user_buckets
