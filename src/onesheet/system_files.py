"""Files and folders that operating systems, NAS firmware and sync tools keep beside a user's own."""

from __future__ import annotations

from typing import Final

# In lower case: Windows and macOS do not tell `Thumbs.db` from `thumbs.db`.
_NAMES: Final = frozenset(
    {
        # Synology, QNAP and other NAS: thumbnails, recycle bins, snapshots
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recycle.bin", "@recently-snapshot", "@recentlysnap"),
        *(".@__thumb", ".@upload_cache", "@sharebin", "@sharesnap", "~snapshot", ".snapshot", ".snapshots", ".zfs"),
        # Windows
        *("$recycle.bin", "recycler", "recycled", "system volume information", "thumbs.db", "ehthumbs.db"),
        "desktop.ini",
        # macOS
        *(".ds_store", ".trashes", ".trash", ".spotlight-v100", ".fseventsd", ".temporaryitems", "temporary items"),
        *(".documentrevisions-v100", "network trash folder", "__macosx"),
        *(".appledouble", ".appledb", ".appledesktop", "icon\r"),
        # Linux, Syncthing, Resilio
        *("lost+found", ".trash", ".stfolder", ".stversions", ".sync"),
    }
)
_PREFIXES: Final = (
    ".trash-",  # freedesktop.org's trash of one user
    "._",  # macOS: metadata beside a file, on disks that cannot hold it
    ".nfs",  # a file that was removed while open
)
_SUFFIXES: Final = ("@synoeastream", "@synoresource")


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this bare name belongs to the system and not to the user."""
    name = name.lower()
    return name in _NAMES or name.startswith(_PREFIXES) or name.endswith(_SUFFIXES)
