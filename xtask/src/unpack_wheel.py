"""Takes the named parts out of a wheel (a zip, larger than 4 GiB or not): argv = wheel, target folder,
then pairs MEMBER=TARGET. A MEMBER that ends with / is a whole folder. Every pair must match something.
Standard library only: it runs under whatever python3 the machine has (3.9 or later)."""

import os
import shutil
import sys
import zipfile

wheel, target, pairs = sys.argv[1], sys.argv[2], [pair.split("=", 1) for pair in sys.argv[3:]]
root = os.path.realpath(target)
found = set()
with zipfile.ZipFile(wheel) as archive:
    for member in archive.infolist():
        for source, place in pairs:
            whole = source.endswith("/")
            if member.is_dir() or not (member.filename.startswith(source) if whole else member.filename == source):
                continue
            found.add(source)
            path = os.path.normpath(os.path.join(root, place, member.filename[len(source):] if whole else ""))
            if not path.startswith(root + os.sep):
                sys.exit("the wheel names a path outside its folder: " + member.filename)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            # The archive's own crc32 is checked while it is read.
            with archive.open(member) as reader, open(path, "wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
missing = [source for source, _ in pairs if source not in found]
if missing:
    sys.exit("not in the wheel: " + ", ".join(missing))
