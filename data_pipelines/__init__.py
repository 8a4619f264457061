"""Images, captions and questions: read, validate, write, load. Knows no codes.

Rooms: `prepare` and `loading`, which know nothing of each other, above `sources`; below them the
modules of this folder, which import no room: `records` (the one schema), `images` (files to
pixels), `safe_files`, `validate`, `shards` and `manifest`. Begin with `records`.
"""
