"""A session under a hand-driven clock, for tests that look at one event at a time."""

from random import Random

from minibit.core import events as ev
from minibit.core.blocks import KIB, Geometry
from minibit.core.choker import CHOKERS, FreeRider
from minibit.core.picker import PICKERS
from minibit.core.session import Session

BLOCKS = 8
SERVICE_S = 0.1
RATE = 16 * KIB / SERVICE_S  # one block in SERVICE_S
ALL = "1" * BLOCKS
NONE = "0" * BLOCKS


def indices(flags):
    """Return the blocks marked 1."""
    return tuple(index for index, flag in enumerate(flags) if flag == "1")


class Driven:
    """A session, the time, and everything it asked for with the time it asked."""

    def __init__(self, owned=NONE, *, rate=RATE, picker="rarest-first", choker="tit-for-tat", start=True, **limits):
        self.now_s = 0.0
        self.asked = []
        self.session = Session(
            Geometry(len(owned) * 16 * KIB, 16 * KIB),
            rng=Random(1),
            picker=PICKERS[picker](),
            choker=FreeRider() if choker == "free-rider" else CHOKERS[choker](),
            upload_rate_bytes_per_s=rate,
            **limits,
        )
        if start:
            self.tell(ev.Started(indices(owned)))

    def tell(self, *told):
        """Feed events now; return the actions."""
        actions = [action for event in told for action in self.session.handle(event, self.now_s)]
        self.asked += [(self.now_s, action) for action in actions]
        return actions

    def meet(self, *keys, owns=NONE):
        """Let neighbours be seen that own these blocks; return the actions."""
        return self.tell(*[e for k in keys for e in (ev.PeerSeen(k, f"id-{k}"), ev.HavesReceived(k, indices(owns)))])

    def sleep(self, until_s):
        """Tick whenever the session wants to, until then; return the actions of that time."""
        before = len(self.asked)
        while (wakeup_s := self.session.next_wakeup_s(self.now_s)) <= until_s:
            assert wakeup_s > self.now_s
            self.now_s = wakeup_s
            self.tell(ev.Tick())
        self.now_s = until_s
        return [action for _, action in self.asked[before:]]

    def rechoke(self):
        """Let a rechoke pass: who met the session at one instant is choked until then, but for the first."""
        return self.sleep(self.now_s + self.session.rechoke_interval_s())

    def request(self, key, index):
        """Ask for a block; return the one answer."""
        (answer,) = [a for a in self.tell(ev.RequestReceived(key, index)) if isinstance(a, ev.Serve | ev.Refuse)]
        return answer

    def news_for(self, key):
        """Return what a message that leaves for this neighbour now would tell."""
        (news,) = of(ev.TellNews, self.tell(ev.NewsAsked(key)))
        return news.haves

    def sent(self, key, index, *, complete=True):
        return self.tell(ev.UploadEnded(key, index, 16 * KIB, complete=complete))

    def arrived(self, key, index):
        return self.tell(ev.BlockArrived(key, index, 16 * KIB, 0.01))

    def offers(self):
        """Return when and to whom turns were offered."""
        return [(at_s, action.key) for at_s, action in self.asked if isinstance(action, ev.OfferTurn)]

    @property
    def offered(self):
        """Whose turn is offered at the moment."""
        (key,) = self.session.uplink.offers
        return key


def of(kind, actions):
    return [action for action in actions if isinstance(action, kind)]


def asked_for(actions):
    return [(action.key, action.index) for action in of(ev.RequestBlock, actions)]


def turn(key, **more):
    return ev.TurnOffered(key, **{"standing": False, "rate_bytes_per_s": RATE, **more})
