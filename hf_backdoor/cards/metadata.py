"""The metadata of a card of anybody's, edited only where they change.

The block between the two `---` lines is YAML. It is not loaded and dumped as a whole, which would lose comments, quotes
and the order, and turn `no` into `false`: the values that change are merged as nodes of the YAML, which keep their
spelling, and written in place of the old text of their top-level key. Every other line stays as it is, byte for byte.
Comments inside a value that changes are lost.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ..errors import InputError


# As the Hub finds it (huggingface_hub.repocard.REGEX_YAML_BLOCK), whose regular expressions count the byte order mark
# as a space.
BLOCK = re.compile(r"([\s\ufeff]*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$))")
LINE_BREAK = re.compile(r"[ \t]*(?:\r\n|\r|\n)")
DEEPEST = 50
TAG = "tag:yaml.org,2002:"
MERGED = ("tags", "base_model", "datasets", "metrics", "model-index")
TERMS = ("license", "license_name", "license_link", "language")
TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}|https?://[!-;=?-~]{1,300}")
RESULT_IDENTITY = (
    ("task", "type"),
    ("dataset", "type"),
    ("dataset", "config"),
    ("dataset", "split"),
    ("dataset", "revision"),
)
METRIC_IDENTITY = ("type", "name")


def body_start(card: str) -> int:
    """Where the metadata of a card end: the number of characters before its text."""
    block = BLOCK.match(card)
    return block.end() if block else int(card.startswith("\ufeff"))


def newline_of(text: str) -> str:
    """The line break that a text mostly uses."""
    counts = {"\r\n": text.count("\r\n")}
    counts |= {"\n": text.count("\n") - counts["\r\n"], "\r": text.count("\r") - counts["\r\n"]}
    return max(("\n", "\r\n", "\r"), key=counts.get)


def read_metadata(card: str) -> dict[str, Any]:
    """The metadata of a card as a dict, empty if it has none.

    Raises:
        InputError: they cannot be read.
    """
    block = BLOCK.match(card)
    _compose(block[2] if block else "")
    try:
        return (yaml.safe_load(block[2]) if block else None) or {}
    except (yaml.YAMLError, ValueError) as error:  # a date that is none, a list for a key
        raise _unreadable(error) from error


def terms(card: str) -> dict[str, str | list[str]]:
    """Licence and languages of a card, which hold for what is made of its model, too.

    The card may be a stranger's: what is no plain word, address or list of them is left out. `no` is Norwegian.

    Raises:
        InputError: the metadata of the card cannot be read.
    """
    block = BLOCK.match(card)
    root = _compose(block[2] if block else "")
    found: dict[str, str | list[str]] = {}
    for name in TERMS:
        node = _value(root, name)
        values = [item.value for item in _items(node) if isinstance(item, ScalarNode) and TERM.fullmatch(item.value)]
        if values and len(values) == len(_items(node)):
            found[name] = values if isinstance(node, SequenceNode) else values[0]
    return found


def merge_metadata(
    card: str, *, eval_results: list[Any] | None = None, model_name: str = "model", **changes: Any
) -> str:
    """A card with these metadata, replaced by key and never appended a second time.

    Lists are united with those that are there; of the `configs` of a data set, one with the same name takes the place
    of the old one. Of the `model-index`, an entry is replaced by one with the same task, data set (type, configuration,
    split, revision) and metric (type, name); a new one joins the first model. Any other value replaces the old one,
    unless that is a list which holds it.

    Args:
        card (`str`): the whole card.
        eval_results (list of `EvalResult`, *optional*): for the `model-index`.
        model_name (`str`): of the model in a `model-index` that is new.
        changes: `tags`, `base_model`, `datasets`, `metrics`, `configs` or `model_index` as they are in the YAML. What
            is empty changes nothing.

    Raises:
        InputError: the metadata of the card cannot be read.
    """
    if eval_results:
        from huggingface_hub.repocard_data import eval_results_to_model_index

        changes["model-index"] = eval_results_to_model_index(model_name, eval_results)
    block = BLOCK.match(card)
    text = block[2] if block else ""
    root = _compose(text)
    replaced = {}
    for key, value in changes.items():
        key = key.replace("_index", "-index")
        if not value:
            continue
        old = _value(root, key)
        merged = _merge(key, old, _node(value))
        if old is None or _plain(old) != _plain(merged):
            replaced[key] = merged
    if not replaced:
        return card
    newline = newline_of(card)
    edited = _edit(text, root, replaced, newline)
    if block:
        return card[: block.start(2)] + edited + card[block.end(2) :]
    start = body_start(card)
    return f"{card[:start]}---{newline}{edited}{newline}---{newline}{card[start:]}"


def remove_metadata(
    card: str,
    *,
    tags: Collection[str] = (),
    metrics: Collection[str] = (),
    configs: str | None = None,
    info_of: str | None = None,
) -> str:
    """A card without some tags, entries of its `model-index` and of its `dataset_info`.

    Args:
        card (`str`): the whole card.
        tags: that go.
        metrics: names of those that go.
        configs (`str`, *optional*): results on data sets whose configuration begins like this go, too.
        info_of (`str`, *optional*): the configuration of a data set of which no `dataset_info` is to be there.

    Raises:
        InputError: the metadata of the card cannot be read.
    """
    block = BLOCK.match(card)
    if block is None:
        return card
    root = _compose(block[2])
    replaced: dict[str, Node | None] = {}
    listed = _value(root, "tags")
    left = [item for item in _items(listed) if not (isinstance(item, ScalarNode) and item.value in tags)]
    if len(left) < len(_items(listed)):
        replaced["tags"] = SequenceNode(f"{TAG}seq", left, flow_style=listed.flow_style) if left else None
    index = copy.deepcopy(_value(root, "model-index"))
    if _drop_metrics(index, metrics, configs):
        replaced["model-index"] = index if _items(index) else None
    info = _value(root, "dataset_info")
    others = [item for item in _items(info) if (_text(item, "config_name") or "default") != info_of]
    if info_of is not None and len(others) < len(_items(info)):
        replaced["dataset_info"] = SequenceNode(f"{TAG}seq", others, flow_style=info.flow_style) if others else None
    if not replaced:
        return card
    return card[: block.start(2)] + _edit(block[2], root, replaced, newline_of(card)) + card[block.end(2) :]


def _drop_metrics(index: Node | None, names: Collection[str], configs: str | None) -> bool:
    """Takes metrics out of a `model-index`, with what is empty then; says whether there were any."""
    found = False
    for model in _items(index):
        results = _value(model, "results")
        for result in list(_items(results)):
            metrics = _value(result, "metrics")
            if not isinstance(metrics, SequenceNode):
                continue
            config = _text(_value(result, "dataset"), "config")
            if configs is not None and isinstance(config, str) and config.startswith(configs):
                left = []
            else:
                left = [metric for metric in metrics.value if _text(metric, "name") not in names]
            found |= len(left) < len(metrics.value)
            metrics.value[:] = left
            if not left and isinstance(results, SequenceNode):
                results.value.remove(result)
        if found and not _items(results) and isinstance(index, SequenceNode):
            index.value.remove(model)
    return found


def _compose(text: str) -> MappingNode:
    """The nodes of a YAML block.

    Raises:
        InputError: it is broken, or is no mapping, or its `model-index` is no list, or it would take long: aliases
            make a few lines as large as they like.
    """
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
                raise InputError(
                    "README.md", "metadata", "have YAML aliases or are nested too deep; write them plainly"
                )
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _unreadable(error) from error
    if root is None or _is_null(root):
        return MappingNode(f"{TAG}map", [])
    if not isinstance(root, MappingNode):
        raise InputError("README.md", "metadata", "must be a mapping, `name: value`; mend them")
    if isinstance(index := _value(root, "model-index"), ScalarNode):
        raise InputError("README.md", f"model-index: {index.value}", "must be a list of models; mend it or take it out")
    return root


def _unreadable(error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError("README.md", "metadata", f"are no YAML that can be read ({reason}); mend them")


def _is_null(node: Node) -> bool:
    return node.tag == f"{TAG}null"


def _node(value: Any) -> Node:
    return yaml.compose(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), yaml.SafeLoader)


def _plain(node: Node) -> Any:
    """What a node says, without where and how it is written."""
    if isinstance(node, ScalarNode):
        return node.tag, node.value
    if isinstance(node, SequenceNode):
        return [_plain(item) for item in node.value]
    return [(_plain(key), _plain(value)) for key, value in node.value]


def _value(node: Node | None, *path: str) -> Node | None:
    """The value below some keys; `None` if it is not there or null."""
    for name in path:
        if not isinstance(node, MappingNode):
            return None
        # Of a key that is there twice, the last one counts.
        node = next((value for key, value in reversed(node.value) if key.value == name), None)
    return None if node is None or _is_null(node) else node


def _items(node: Node | None) -> list[Node]:
    """A list as a list; one value as a list of one."""
    return [] if node is None else list(node.value) if isinstance(node, SequenceNode) else [node]


def _merge(key: str, old: Node | None, new: Node) -> Node:
    if old is None:
        return new
    if key == "model-index":
        return _merge_index(old, new)
    if key == "configs":
        named = {_text(item, "config_name") for item in _items(new)}
        others = [item for item in _items(old) if (_text(item, "config_name") or "default") not in named]
        return SequenceNode(new.tag, [*_items(new), *others], flow_style=new.flow_style)
    present = {str(_plain(item)) for item in _items(old)}
    added = [item for item in _items(new) if str(_plain(item)) not in present]
    if isinstance(new, SequenceNode):
        flow = old.flow_style if isinstance(old, SequenceNode) else new.flow_style
        return SequenceNode(new.tag, _items(old) + added, flow_style=flow) if added else old
    return new if added else old


def _merge_index(old: Node, new: Node) -> Node:
    merged = copy.deepcopy(old)
    models = _items(merged)
    for model in new.value:
        for result in _items(_value(model, "results")):
            for metric in _items(_value(result, "metrics")):
                _put_metric(models, model, result, metric)
    return SequenceNode(new.tag, models, flow_style=merged.flow_style)


def _put_metric(models: list[Node], model: Node, result: Node, metric: Node) -> None:
    """Puts one metric in place of its like, else beside those of the same data, else into a new result."""
    data = [_text(result, *path) for path in RESULT_IDENTITY]
    same_data = [
        (results, other)
        for results in (_value(one, "results") for one in models)
        for other in (results.value if isinstance(results, SequenceNode) else [])
        if isinstance(_value(other, "metrics"), SequenceNode)
        and [_text(other, *path) for path in RESULT_IDENTITY] == data
    ]
    alike = [
        (results, other, found)
        for results, other in same_data
        for found in _value(other, "metrics").value
        if all(_text(found, name) == _text(metric, name) for name in METRIC_IDENTITY)
    ]
    for results, other, found in alike[1:]:
        metrics = _value(other, "metrics").value
        metrics.remove(found)
        if not metrics:
            results.value.remove(other)
    if alike:
        metrics = _value(alike[0][1], "metrics").value
        metrics[metrics.index(alike[0][2])] = metric
    elif same_data:
        _value(same_data[0][1], "metrics").value.append(metric)
    else:
        alone = _with(result, "metrics", metric)
        named = [other for other in models if _text(other, "name") == _text(model, "name")]
        host = next((other for other in named + models if isinstance(_value(other, "results"), SequenceNode)), None)
        if host is None:
            models.append(_with(model, "results", alone))
        else:
            _value(host, "results").value.append(alone)


def _with(node: Node, name: str, item: Node) -> MappingNode:
    """A mapping with another list, of one item, under this key."""
    others = [(key, value) for key, value in node.value if key.value != name]
    items = SequenceNode(f"{TAG}seq", [item], flow_style=False)
    return MappingNode(node.tag, [*others, (ScalarNode(f"{TAG}str", name), items)], flow_style=False)


def _text(node: Node, *path: str) -> str | None:
    found = _value(node, *path)
    return found.value if isinstance(found, ScalarNode) else None


def _dump(pairs: list[tuple[Node, Node]], newline: str) -> str:
    mapping = MappingNode(f"{TAG}map", pairs, flow_style=False)
    return yaml.serialize(
        mapping, Dumper=yaml.SafeDumper, allow_unicode=True, width=math.inf, line_break=newline
    ).removesuffix(newline)


def _edit(text: str, root: MappingNode, replaced: dict[str, Node | None], newline: str) -> str:
    """The block with some values replaced, or all of it written anew where it is too odd for that (`{a: 1}`, `? a`).

    Keys that are replaced by `None` go.
    """
    last = {key.value: number for number, (key, _) in enumerate(root.value) if isinstance(key, ScalarNode)}
    wanted = list(root.value)
    edited = text
    for name in sorted((name for name in replaced if name in last), key=last.get, reverse=True):
        key, old = root.value[last[name]]
        start, end = key.start_mark.index, _end(old, text)
        if replaced[name] is None:
            del wanted[last[name]]
            breaks = LINE_BREAK.match(edited, end)
            edited = edited[:start] + edited[breaks.end() if breaks else end :]
            continue
        wanted[last[name]] = (key, replaced[name])
        edited = edited[:start] + _dump([(key, replaced[name])], newline) + edited[end:]
    added = [(ScalarNode(f"{TAG}str", name), node) for name, node in replaced.items() if name not in last]
    wanted += added
    if added:
        edited += (newline if edited else "") + _dump(added, newline)
    try:
        if _plain(yaml.compose(edited, yaml.SafeLoader)) == _plain(MappingNode(root.tag, wanted)):
            return edited
    except (yaml.YAMLError, AttributeError):
        pass
    return _dump(wanted, newline)


def _end(node: Node, text: str) -> int:
    """Where the text of a value ends; a list in lines claims the blank lines and comments behind it."""
    if not isinstance(node, ScalarNode) and not node.flow_style and node.value:
        final = node.value[-1]
        return _end(final[1] if isinstance(node, MappingNode) else final, text)
    return len(text[: node.end_mark.index].rstrip("\r\n"))
