"""Beside the line, when somebody asks where an incident came from: the graph in sentences.

Each sentence cites events and findings that say so; one without is left out.
"""

from collections.abc import Sequence
from typing import Final

from appliance.correlate.provenance_processes import Process
from appliance.correlate.provenance_story import Story, sort_processes
from appliance.correlate.provenance_text import clean_text, name_image, word_time
from appliance.incident import Sentence, TraceNode

#: Most sentences of a kind, most citations of one, most names in a row.
MAX_SENTENCES: Final = 12
MAX_CITES: Final = 16
MAX_NAMES: Final = 8


def name_process(process: Process) -> str:
    """A process as a sentence names it: its image, process id and host."""
    name = clean_text(name_image(process.image), 64) or "a process"
    pid = "" if process.pid is None else f" (pid {process.pid})"
    return f"{name}{pid} on {clean_text(process.host, 64) or 'an unnamed host'}"


def word_story(
    story: Story, reach: Sequence[str], nodes: Sequence[TraceNode]
) -> tuple[Sentence, ...]:
    """Root cause, the breaks that were crossed, the extent, the hosts in order."""
    sentences = [_word_root(story, root) for root in story.roots[:MAX_SENTENCES]]
    sentences += _word_breaks(story)
    sentences.append(_word_extent(story))
    sentences.append(_word_reach(story, reach, nodes))
    return tuple(sentence for sentence in sentences if sentence.cites)


def _cite(story: Story, *processes: Process) -> tuple[str, ...]:
    """Events of the starts, then findings on the processes, then events of what they did."""
    cites: dict[str, None] = {}
    for process in processes:
        for note in process.notes[:2]:
            cites[note.event] = None
    for process in processes:
        for note in story.seeds.get(process, ())[:4]:
            cites.update(dict.fromkeys(story.found.get(note.event, ())))
    if not cites:
        starts = (c.notes[0].event for p in processes for c in p.children if c.notes)
        acts = (note.event for process in processes for note in process.acts[:2])
        cites.update(dict.fromkeys((*list(starts)[:2], *acts)))
    return tuple(cites)[:MAX_CITES]


def _word_root(story: Story, root: Process) -> Sentence:
    text = f"It began with {name_process(root)}"
    if root.user:
        text += f", run by {clean_text(root.user, 64)}"
    if root.recorded and root.start is not None:
        text += f", started at {word_time(root.start)}"
    parent = root.parent
    if parent is not None and parent.is_system:
        name = clean_text(parent.name, 64) or f"process {parent.pid}"
        text += f" by {name}, which starts what users and the system ask for"
    elif root.parent_image and parent is None:
        text += f" by {clean_text(name_image(root.parent_image), 64)}"
    return Sentence(f"{text}.", _cite(story, root))


def _word_breaks(story: Story) -> list[Sentence]:
    sentences = []
    order = sorted(story.links, key=lambda link: (link.effect.begin, link.effect.id, link.how))
    for link in order[:MAX_SENTENCES]:
        cites = dict.fromkeys(note.event for hop in link.hops for note in hop.notes)
        how = clean_text(link.how, 160)
        if link.cause is None:
            text = (
                f"{name_process(link.effect)} is known by {how}; who caused that is not recorded."
            )
        else:
            cause, effect = name_process(link.cause), name_process(link.effect)
            text = f"{cause} led to {effect}: known by {how}."
        sentences.append(Sentence(text, tuple(cites)[:MAX_CITES]))
    return sentences


def _word_extent(story: Story) -> Sentence:
    members = [p for p in sort_processes(story.members) if not p.is_system]
    on_them = [p for p in members if p in story.seeds]
    names = list(dict.fromkeys(clean_text(p.name, 64) for p in on_them if p.name))
    row = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
    text = f"{len(members)} processes belong to it; findings are on {len(on_them)} of them: {row}."
    return Sentence(text, _cite(story, *on_them[:MAX_CITES]) if on_them else ())


def _word_reach(story: Story, reach: Sequence[str], nodes: Sequence[TraceNode]) -> Sentence:
    hosts = [clean_text(host, 64) for host in reach[:MAX_NAMES]]
    row = ", then ".join(hosts) + (", then others" if len(reach) > MAX_NAMES else "")
    word = "one host" if len(reach) == 1 else f"{len(reach)} hosts"
    cites: dict[str, None] = {}
    for host in reach[:MAX_CITES]:
        for node in nodes:
            if node.host == host and (node.findings or node.events):
                cites[(node.findings or node.events)[0]] = None
                break
    return Sentence(f"It is seen on {word}: {row}.", tuple(cites))


def word_missing(story: Story, left_out: int, findings: Sequence[str]) -> tuple[Sentence, ...]:
    """What could not be followed: parents that nobody recorded, events beyond the cap, findings
    whose event is not there."""
    sentences = []
    for top in sort_processes(story.tops):
        if top.recorded and top.parent is None and not top.parent_pid and not top.parent_image:
            text = f"What started {name_process(top)} is not in its record."
        elif not top.recorded:
            name = name_process(top)
            text = f"The start of {name} was recorded by nobody, or before the archive begins"
            text += f" (by its id it started at {word_time(top.start)})." if top.start else "."
        else:
            continue
        sentences.append(Sentence(text, _cite(story, top)))
    for link in sorted(story.links, key=lambda link: (link.effect.begin, link.effect.id)):
        if link.cause is None and link.hops[0].source is not link.effect:
            source = link.hops[0].source
            if not isinstance(source, Process) and source.kind in ("host", "address"):
                text = (
                    f"Which process of {source.label} led to {name_process(link.effect)} is not"
                    " recorded."
                )
                cites = tuple(dict.fromkeys(note.event for note in link.hops[0].notes))
                sentences.append(Sentence(text, cites[:MAX_CITES]))
    sentences = sentences[: 2 * MAX_SENTENCES]
    unseen = [ids[0] for event, ids in story.found.items() if event not in story.notes]
    if unseen:
        text = f"The events of {len(unseen)} findings are not among the events looked at."
        sentences.append(Sentence(text, tuple(unseen[:MAX_CITES])))
    if left_out:
        text = f"{left_out} events beyond the cap were not looked at."
        sentences.append(Sentence(text, tuple(findings[:1])))
    if story.too_deep:
        text = f"{story.too_deep} ways were not followed beyond {story.depth} processes."
        sentences.append(Sentence(text, tuple(findings[:1])))
    return tuple(sentence for sentence in sentences if sentence.cites)
