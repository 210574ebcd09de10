"""A JPEG file without its metadata: for files whose odd EXIF or MPF blocks keep a decoder from the pixels.

Read next: glotok_ray/data/image_files.py
"""

_SEGMENT_START = 0xFF
_START_OF_SCAN = 0xDA
_APP0 = 0xE0
# APP1 to APP13, APP15 and comments; APP0 (JFIF) and APP14 (Adobe) say how colours are coded.
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
# Its length, the identifier "JFIF", version, density and the thumbnail's sides.
_JFIF_BYTES = 16
# Markers without a length that may lie before the pixels: fill bytes and TEM.
_BARE = frozenset({0xFF, 0x01})


def without_metadata(encoded: bytes) -> bytes | None:
    """The same coded pixels without metadata; None for what is no JPEG, is cut before its pixels, or holds none."""
    if encoded[:2] != b"\xff\xd8":
        return None
    kept, place, found = [encoded[:2]], 2, False
    while place + 4 <= len(encoded) and encoded[place] == _SEGMENT_START:
        marker = encoded[place + 1]
        if marker in _BARE:
            place += 1 if marker == _SEGMENT_START else 2
            continue
        if marker == _START_OF_SCAN:
            kept.append(encoded[place:])
            return b"".join(kept) if found else None
        end = place + 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
        if marker in _METADATA or (marker == _APP0 and not _is_jfif(encoded[place + 2 : end])):
            found = True
        else:
            kept.append(encoded[place:end])
        place = end
    return None


def _is_jfif(segment: bytes) -> bool:
    """Whether an APP0 segment, from its length on, is a whole JFIF head; decoders prefer it to Adobe's."""
    return len(segment) >= _JFIF_BYTES and segment[2:7] == b"JFIF\0"
