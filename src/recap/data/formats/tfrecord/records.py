"""TFRecord framing: length (8 bytes), masked crc32c of the length, data, masked crc32c of the data."""

import struct
from collections.abc import Iterable
from functools import lru_cache

import google_crc32c
import numpy as np
import numpy.typing as npt

from recap.data.formats.blocks import Block, BlockIndex
from recap.data.formats.content import Damaged
from recap.data.formats.tfrecord.spans import bytes_from

HEAD, FOOT = 12, 4
"""Bytes before and after the data of a record."""
_MASK_DELTA = 0xA282EAD8
_INCOMPLETE = "the file ends in the middle of the record"


def masked_crc(data: bytes | npt.NDArray[np.uint8]) -> int:
    """crc32c as TFRecord masks it: rotated right by 15 bits, plus a constant."""
    value = google_crc32c.value(data)
    return int(((value >> 15 | value << 17) + _MASK_DELTA) & 0xFFFFFFFF)


def index_records(pieces: Iterable[bytes], block_bytes: float) -> BlockIndex:
    """The blocks, of about `block_bytes`, of the records in `pieces`, up to a torn end; parses only record heads."""
    blocks: list[Block] = []
    offset = first_row = rows = 0  # of the block not ended yet
    record = next_record = 0  # offsets of the last record whose head is read, and of the one after it
    unparsed, read = b"", 0
    torn = None
    try:
        for piece in pieces:
            data, begin = unparsed + piece, read - len(unparsed)
            read += len(piece)
            while next_record + HEAD <= read:
                record = next_record
                if record - offset >= block_bytes:
                    blocks.append(Block(offset, record - offset, rows, first_row))
                    offset, first_row, rows = record, first_row + rows, 0
                head = data[record - begin : record - begin + HEAD]
                next_record = record + HEAD + record_length(head) + FOOT
                rows += 1
            unparsed = data[next_record - begin :]
    except Damaged as error:
        torn = str(error)
    end = next_record
    if end > read:
        end, rows, torn = record, rows - 1, torn or _INCOMPLETE
    elif end < read:
        torn = torn or _INCOMPLETE
    if rows:
        blocks.append(Block(offset, end - offset, rows, first_row))
    return BlockIndex(tuple(blocks), torn)


@lru_cache(maxsize=65536)
def record_length(head: bytes) -> int:
    """The length of a record's data, from its head. Raises Damaged."""
    length, check = struct.unpack("<QI", head)
    if check != masked_crc(head[:8]):
        raise Damaged("the length of the record is damaged (crc32c); is this a TFRecord file?")
    return int(length)


def record_spans(data: npt.NDArray[np.uint8], rows: int) -> npt.NDArray[np.int64]:
    """Start and end of the data of each record in a block, [B, 2]. Raises Damaged."""
    view = data.data
    spans = []
    position = 0
    for _ in range(rows):
        start = position + HEAD
        end = start + record_length(bytes(view[position:start]))
        spans.append((start, end))
        position = end + FOOT
    return np.array(spans, np.int64).reshape(-1, 2)


def damaged_records(data: npt.NDArray[np.uint8], spans: npt.NDArray[np.int64]) -> list[int]:
    """The records whose data does not match their checksums."""
    crc = np.array([google_crc32c.value(data[start:end]) for start, end in spans.tolist()], np.uint32)
    masked = (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(_MASK_DELTA)
    stored = bytes_from(data, spans[:, 1], FOOT).view("<u4")[:, 0]
    return np.flatnonzero(masked != stored).tolist()
