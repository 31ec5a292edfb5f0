"""A short text of our own, in no model's training: what `tandem models compare` measures by."""

TEXT = '''\
The ferry to the island leaves at ten past seven, and on weekdays it is half empty. Most of the
passengers are people who work at the weather station: they sit below, out of the wind, with their
coffee, and nobody talks before the second buoy. On a clear morning you can see the lighthouse from
the harbour; in fog you hear it first, two long notes and then a pause in which you count to nine.

When the engine was replaced last spring, the captain kept the old log books. They go back to 1962
and record the same things in the same order: the time, the wind, the number of passengers, and a
column that is nearly always blank, headed "remarks". In sixty years there are forty remarks. One of
them reads: "Whale, starboard. Stopped to look."

def median(values):
    """The middle of the values, or the mean of the two in the middle. Raises on an empty list."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("the median of nothing is not defined")
    half, odd = divmod(len(ordered), 2)
    return ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2


class Tally:
    """Counts what it is told, and knows what it has been told most often."""

    def __init__(self):
        self.counts = {}

    def add(self, name, amount=1):
        self.counts[name] = self.counts.get(name, 0) + amount

    def most(self, limit=3):
        ranked = sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return ranked[:limit]

To install the pump, first close both valves and wait until the gauge reads zero. Remove the four
bolts in the order shown, opposite corners first, and keep the washers: the new ones are thicker and
will not seal. If water still drips from the joint after an hour, it is not the gasket but the pipe.

Q: Why does the second run of a program often finish sooner than the first?
A: Mostly because its files are already in memory. The operating system keeps what it has read for
as long as nobody needs the room, so the second run waits for no disk. A few programs also keep
results of their own. To compare two programs fairly, run each of them several times and in turn.

{"station": "North Pier", "readings": [{"hour": 6, "celsius": 4.5, "wind": "NW"},
 {"hour": 12, "celsius": 7.25, "wind": "W"}, {"hour": 18, "celsius": 6.0, "wind": null}]}
'''
