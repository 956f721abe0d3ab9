"""Masking of uploads, shares of their secrets, the proof of honest dealing, and opening of sums.

Source: the project's `docs/protocol.md`, sections on masks, shares and opening.
"""

from asyncfl.masking.agreement import find_agreeing, find_wrong, read_answers
from asyncfl.masking.opening import decode_sum, encode_sum, find_secret, open_sum, sum_packed
from asyncfl.masking.protect import Protected, UploadContext, protect
from asyncfl.masking.quantise import quantise
from asyncfl.masking.verify import (
    check_manifest,
    open_share,
    verify_check_blocks,
    verify_public,
    verify_share,
)

__all__ = [
    "Protected",
    "UploadContext",
    "check_manifest",
    "decode_sum",
    "encode_sum",
    "find_agreeing",
    "find_secret",
    "find_wrong",
    "open_share",
    "open_sum",
    "protect",
    "quantise",
    "read_answers",
    "sum_packed",
    "verify_check_blocks",
    "verify_public",
    "verify_share",
]
