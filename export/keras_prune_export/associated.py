"""Files that TFLite's metadata appends to a model: a zip archive behind the flatbuffer."""

from __future__ import annotations

import struct

# The records of the zip format (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7, 4.3.12, 4.3.16).
_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END_MAGIC, _ENTRY_MAGIC, _LOCAL_MAGIC = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
_LONGEST_COMMENT = 2**16 - 1
_OFFSET = _ENTRY.size - 4  # of a file's position, in its entry of the directory


def archive(data: bytes) -> tuple[bytes, int]:
    """The archive behind a .tflite file's flatbuffer.

    Args:
        data: the file's bytes.

    Returns:
        ``(archive, start)``: its bytes and their position; ``(b"", len(data))`` where there is none.

    Raises:
        ValueError: the archive is damaged.
    """
    end = data.rfind(_END_MAGIC, max(0, len(data) - _LONGEST_COMMENT - _END.size))
    if end < 0 or end + _END.size + _comment_bytes(data, end) != len(data):
        return b"", len(data)
    _, _, _, _, count, size, directory, _ = _END.unpack_from(data, end)
    if directory + size != end:
        raise ValueError(
            f".tflite file: expected the directory of the appended files just before byte {end}, got {directory}; "
            "the archive is damaged: append the files again"
        )
    offsets = [offset for _, offset in _entries(data[directory:end], count)]
    if any(data[offset : offset + 4] != _LOCAL_MAGIC or offset >= directory for offset in offsets):
        raise ValueError(".tflite file: an appended file is not where its directory says; append the files again")
    start = min(offsets, default=directory)
    return data[start:], start


def _comment_bytes(data: bytes, end: int) -> int:
    return _END.unpack_from(data, end)[-1] if end + _END.size <= len(data) else -1


def _entries(directory: bytes, count: int) -> list[tuple[int, int]]:
    """Where each entry stands in the directory, and where its file stands."""
    found, position = [], 0
    for _ in range(count):
        if directory[position : position + 4] != _ENTRY_MAGIC or position + _ENTRY.size > len(directory):
            raise ValueError(".tflite file: the directory of the appended files is damaged; append the files again")
        fields = _ENTRY.unpack_from(directory, position)
        found.append((position, fields[-1]))
        position += _ENTRY.size + sum(fields[10:13])  # the name, the extra field and the comment
    return found


def append(data: bytes, archive: bytes, start: int) -> bytes:
    """Appends an archive to another flatbuffer; its files keep their bytes, its directory says where they are now.

    Args:
        data: the flatbuffer.
        archive: what `archive` returned.
        start: likewise.

    Returns:
        The file's bytes.
    """
    if not archive:
        return data
    moved, shift = bytearray(archive), len(data) - start
    end = archive.rfind(_END_MAGIC)
    fields = _END.unpack_from(archive, end)
    directory = fields[6] - start
    for position, offset in _entries(archive[directory:end], fields[4]):
        struct.pack_into("<L", moved, directory + position + _OFFSET, offset + shift)
    struct.pack_into("<L", moved, end + _END.size - 6, fields[6] + shift)
    return data + bytes(moved)
