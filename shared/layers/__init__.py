"""Layers and archives of files: reading tars, unpacking them safely, packing trees and changes.

Everything that touches files of an image or a container runs in a child process that is confined to one directory
(`shared.layers.child`), so no name in an archive and no symbolic link in a tree can reach anything else::

    worker.Unpacker, unpack    tar -> directory: layers (whiteouts become overlayfs's) and plain archives
    worker.Packer, packing     directory -> tar: trees (export, cp) and changes (an overlay's upper -> layer)
    changes.listed             upper directory -> what `docker diff` shows

Depends on the standard library, `shared.errors`, and on isal and zstandard for compressed input.
"""
