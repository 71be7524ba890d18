"""COPY and ADD: which files are meant, what they are worth as a cache key, and where they go.

::

    sources ──select──► Selected(tree, path, name)… ──checksum──► cache key
                                      └──place──► LayerPlan

Source: Dockerfile reference, "COPY" and "ADD"; for what it leaves open (links, existing targets), the classic builder.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.image.build.context.tree import Entry, TooManyLinks, Tree, resolve, walk
from services.image.build.ignore import IgnoreRules, has_wildcards, name_matcher
from services.image.build.steps.layer import LayerPlan, owned
from services.image.build.steps.owners import Mode
from shared.errors import InvalidArgument, NotFound


@dataclass(frozen=True, slots=True)
class Selected:
    """One source.

    Attributes:
        path: Where it really is in its tree, links followed.
        name: What it is called where it goes; empty for a whole tree.
        pivot: With ``--parents``: the part of its path that is kept, else empty.
        archive: A tree with the content of the archive that it is, when ADD is to extract it.
    """

    tree: Tree
    path: str
    entry: Entry
    name: str
    pivot: str = ""
    archive: Tree | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """How files change on their way. owner: None keeps each file's own."""

    owner: tuple[int, int] | None = (0, 0)
    mode: Mode | None = None
    exclude: IgnoreRules | None = None


def select(
    tree: Tree, source: str, *, keyword: str, parents: bool = False, from_context: bool = True
) -> list[Selected]:
    """The files that one source names.

    Raises:
        NotFound: There is none.
        InvalidArgument: It points outside the tree.
    """
    path = _clean_source(source, keyword)
    found = list(_matching(tree, path)) if has_wildcards(path) else [path]
    selected = []
    for item in found:
        try:
            real, entry = resolve(tree, item)
        except (NotADirectoryError, TooManyLinks) as error:
            raise NotFound(f"{keyword} failed: {error}") from error
        if entry is None:
            where = "file not found in build context or excluded by .dockerignore: " if from_context else ""
            raise NotFound(f"{keyword} failed: {where}stat {item}: file does not exist")
        name = "" if not item or entry.kind == "dir" else posixpath.basename(item)
        pivot = _kept_parents(source, item) if parents else ""
        selected.append(Selected(tree, real, entry, name, pivot))
    return selected


def _clean_source(source: str, keyword: str) -> str:
    path = posixpath.normpath(source.lstrip("/") or ".")
    if path == ".." or path.startswith("../"):
        raise InvalidArgument(f"{keyword} failed: forbidden path outside the build context: {source} ()")
    return "" if path == "." else path


def _kept_parents(source: str, path: str) -> str:
    """With ``--parents`` a path is kept whole, or from a ``/./`` in it on."""
    before, pivot, _ = source.partition("/./")
    if not pivot:
        return path
    skipped = len([part for part in before.split("/") if part not in ("", ".")])
    return "/".join(path.split("/")[skipped:])


def _matching(tree: Tree, pattern: str) -> Iterator[str]:
    """Paths that match a pattern name by name (``**``: any number of directories), in order."""
    yield from dict.fromkeys(_match_below(tree, "", pattern.split("/")))


def _match_below(tree: Tree, directory: str, parts: list[str]) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if part == "**" and rest:
        yield from _match_below(tree, directory, rest)
        matcher, rest_below = name_matcher("*"), parts
    else:
        matcher, rest_below = name_matcher(part), rest
    for name in tree.names(directory):
        if not matcher.match(name):
            continue
        path = posixpath.join(directory, name)
        if not rest_below:
            yield path
            continue
        entry = tree.lookup(path)
        if entry is not None and entry.kind == "dir":
            yield from _match_below(tree, path, rest_below)


def checksum(selected: list[Selected], *, ownership: bool, exclude: IgnoreRules | None = None) -> str:
    """What the sources are worth as a cache key: ``file:<hex>``, ``dir:<hex>`` or ``multi:<hex>``.

    Content, names below a directory, modes and links count; times do not, owners only where they are kept.
    """
    sums = [_checksum_one(item, ownership=ownership, exclude=exclude) for item in selected]
    if len(sums) == 1:
        return sums[0]
    return "multi:" + hashlib.sha256(",".join(sums).encode()).hexdigest()


def _checksum_one(item: Selected, *, ownership: bool, exclude: IgnoreRules | None) -> str:
    digest = hashlib.sha256()
    _feed(digest, item.pivot or item.name, item.entry, item.tree, item.path, ownership=ownership)
    if item.entry.kind != "dir":
        return "file:" + digest.hexdigest()
    for relative, entry in walk(item.tree, item.path):
        if exclude is not None and exclude.excludes(_for_exclude(item, relative)):
            continue
        _feed(digest, relative, entry, item.tree, posixpath.join(item.path, relative), ownership=ownership)
    return "dir:" + digest.hexdigest()


def _feed(digest: hashlib._Hash, name: str, entry: Entry, tree: Tree, path: str, *, ownership: bool) -> None:
    facts: list[object] = [name, entry.kind, entry.mode, entry.link, entry.device, sorted(entry.xattrs.items())]
    if ownership:
        facts += [entry.uid, entry.gid]
    digest.update(repr(facts).encode("utf-8", "surrogateescape"))
    if entry.kind == "file":
        digest.update(tree.digest(path))


def _for_exclude(item: Selected, relative: str) -> str:
    """The path that ``--exclude`` patterns speak of: relative to a directory that is copied, else to the tree."""
    return relative or item.name


def check_destination(selected: list[Selected], destination: str, *, keyword: str, parents: bool = False) -> None:
    """Raises InvalidArgument for several sources and a destination that is no directory."""
    if len(selected) > 1 and not destination.endswith("/") and not parents:
        raise InvalidArgument(
            f"When using {keyword} with more than one source file, the destination must be a directory and end with a /"
        )


def absolute_destination(destination: str, working_dir: str) -> str:
    """The destination from the root, its trailing slash kept: that slash says that it is a directory."""
    path = posixpath.normpath(posixpath.join("/", working_dir or "/", destination))
    path = "/" + path.lstrip("/")
    is_directory = destination.endswith(("/", "/.")) or destination in (".", "..")
    return path.rstrip("/") + "/" if is_directory or path == "/" else path


def place(plan: LayerPlan, selected: list[Selected], destination: str, placement: Placement) -> None:
    """Put the sources into a layer.

    Args:
        destination: From `absolute_destination`.

    Raises:
        InvalidArgument: Something in the destination is in the way.
    """
    for item in selected:
        target = destination
        if item.pivot:
            kept = posixpath.dirname(item.pivot) if item.entry.kind != "dir" else item.pivot
            target = destination.rstrip("/") + "/" + (kept + "/" if kept else "")
            _keep_parents(plan, item, destination, kept, placement)
        try:
            _place_one(plan, item, target, placement)
        except (NotADirectoryError, TooManyLinks) as error:
            prefix = "failed to copy directory: " if item.entry.kind == "dir" else ""
            raise InvalidArgument(f"failed to copy files: {prefix}{error}") from error


def _keep_parents(plan: LayerPlan, item: Selected, destination: str, kept: str, placement: Placement) -> None:
    """With ``--parents``, parents keep the attributes they have where they come from."""
    base = resolve(plan, destination)[0]
    skipped = item.path.split("/")[: len(item.path.split("/")) - len(item.pivot.split("/"))]
    parts = kept.split("/") if kept else []
    for end in range(1, len(parts) + 1):
        entry = item.tree.lookup("/".join([*skipped, *parts[:end]]))
        target = posixpath.join(base, *parts[:end])
        if entry is not None and entry.kind == "dir" and plan.lookup(target) is None:
            _make_parents(plan, target, placement)
            plan.put(target, _changed(entry, placement))


def _make_parents(plan: LayerPlan, path: str, placement: Placement) -> None:
    parent = posixpath.dirname(path)
    if parent:
        uid, gid = placement.owner or (0, 0)
        plan.make_directories(parent, uid=uid, gid=gid)


def _place_one(plan: LayerPlan, item: Selected, destination: str, placement: Placement) -> None:
    target = resolve(plan, destination)[0]
    uid, gid = placement.owner or (0, 0)
    if item.archive is not None:
        plan.make_directories(target)
        _extract(plan, item.archive, target)
        return
    if item.entry.kind == "dir":
        plan.make_directories(target, uid=uid, gid=gid)
        _place_tree(plan, item, target, placement)
        return
    if placement.exclude is not None and placement.exclude.excludes(_for_exclude(item, "")):
        return
    there = plan.lookup(target) if target else Entry("dir", 0o755)
    if destination.endswith("/") or (there is not None and there.kind == "dir"):
        plan.make_directories(target, uid=uid, gid=gid)
        target = posixpath.join(target, item.name)
    else:
        _make_parents(plan, target, placement)
    _put(plan, target, item.tree, item.path, _changed(item.entry, placement))


def _place_tree(plan: LayerPlan, item: Selected, target: str, placement: Placement) -> None:
    rules = placement.exclude
    waiting: dict[str, Entry] = {}
    for relative, entry in walk(item.tree, item.path):
        path = posixpath.join(target, relative)
        if rules is not None and rules.excludes(relative):
            if entry.kind == "dir":
                waiting[relative] = entry  # comes back with the first file below it that does
            continue
        for parent in _ancestors(relative):
            if parent in waiting:
                plan.put(posixpath.join(target, parent), _changed(waiting.pop(parent), placement))
        _put(plan, path, item.tree, posixpath.join(item.path, relative), _changed(entry, placement))


def _ancestors(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _extract(plan: LayerPlan, archive: Tree, target: str) -> None:
    """An archive's entries keep their owners and modes; ``--chown`` touches neither them nor where they go."""
    for relative, entry in walk(archive, ""):
        path = posixpath.join(target, relative)
        parent, name = posixpath.split(path)
        # Like tar: a link to a directory on the way is followed, inside the root.
        real_parent = resolve(plan, parent)[0]
        path = posixpath.join(real_parent, name)
        there = plan.lookup(path)
        if entry.kind == "dir" and there is not None and there.kind == "symlink":
            leads_to = resolve(plan, path)[1]
            if leads_to is not None and leads_to.kind == "dir":
                continue
        _put(plan, path, archive, relative, entry)


def _put(plan: LayerPlan, path: str, tree: Tree, source: str, entry: Entry) -> None:
    if entry.kind == "file":
        plan.put(path, entry, lambda: tree.open(source), tree=tree)
    else:
        plan.put(path, entry, tree=tree)


def _changed(entry: Entry, placement: Placement) -> Entry:
    entry = owned(entry, placement.owner)
    if placement.mode is None or entry.kind == "symlink":
        return entry
    return replace(entry, mode=placement.mode.apply(entry.mode, directory=entry.kind == "dir"))
