"""Tables and chairs: their parameters, and the solids that these describe."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from manifold3d import CrossSection, JoinType, Manifold

from metasdf.preparation.pieces import (
    apron,
    bent_wall,
    box,
    ellipse,
    even_gaps,
    four_legs,
    leg_room,
    loft,
    pedestal,
    plate_outline,
    rectangle,
    rounded_rectangle,
    stretcher,
    union,
)

RAIL = 0.055  # thickness of rails, aprons, shelves and arms, as a share of the largest dimension


def between(low: float, high: float) -> Any:
    """A dataclass field with a value drawn uniformly from [low, high)."""
    return dataclasses.field(metadata={"draw": lambda rng: float(rng.uniform(low, high))})


def one_of(*choices: Any) -> Any:
    """A dataclass field with a value drawn from `choices`, all equally likely."""

    def draw(rng: np.random.Generator) -> Any:
        return choices[rng.integers(len(choices))]

    return dataclasses.field(metadata={"draw": draw, "choices": choices})


@dataclass(frozen=True)
class Table:
    """A table. Lengths are in metres, thicknesses are shares of the largest dimension."""

    top: str = one_of("rectangle", "rounded", "ellipse", "round")
    legs: str = one_of("square", "splayed", "pedestal", "panels", "trestles")
    extra: str = one_of("none", "apron", "stretcher", "shelf", "cabinet")
    feet: int = one_of(0, 3, 4)  # of a pedestal; 0 is a disc
    width: float = between(0.65, 1.2)
    depth: float = between(0.55, 0.9)
    height: float = between(0.35, 0.85)
    top_thickness: float = between(0.05, 0.11)
    corner: float = between(0.3, 0.9)  # radius of a rounded top's corners / half its short side
    leg_thickness: float = between(0.055, 0.09)
    taper: float = between(0.0, 0.5)  # how much thicker a leg is at its head than at its foot
    splay: float = between(0.05, 0.3)  # outward slope of splayed legs
    inset_x: float = between(0.0, 0.3)  # share of the half width between the edge and the legs
    inset_z: float = between(0.0, 0.3)
    lift: float = between(0.2, 0.6)  # height of stretcher, shelf or cabinet / height under the top
    apron_height: float = between(0.08, 0.18)
    fill: float = between(0.3, 0.8)  # cabinet width / width between legs; size of a pedestal's base

    def solid(self) -> Manifold:
        """The complete solid, standing on the plane y = 0."""
        half_x, half_z = self.width / 2, self.depth / 2
        if self.top == "round":
            half_x = half_z = (half_x + half_z) / 2
        size = max(2 * half_x, 2 * half_z, self.height)
        under = self.height - self.top_thickness * size
        top = plate_outline(self.top, half_x, half_z, self.corner)
        pieces = [loft(top, under, top, self.height)]
        if self.legs == "pedestal":
            return union(pieces + self._pedestal(top, under, size))
        room_x, room_z = leg_room(self.top, half_x, half_z, self.corner)
        x, z = room_x * (1 - self.inset_x), room_z * (1 - self.inset_z)
        return union(pieces + self._legs_and_extra(x, z, under, size))

    def _pedestal(self, top: np.ndarray, under: float, size: float) -> list[Manifold]:
        """The parts under the top, around a central column."""
        into = (under + self.height) / 2  # what carries the top ends inside it, to fuse with it
        foot, rail = 1.4 * self.leg_thickness * size / 2, RAIL * size
        base = (0.5 + 0.4 * self.fill) * top.max(axis=0).min()
        pieces = pedestal(foot, foot * (1 + self.taper), into, base, rail, self.feet)
        if self.extra == "apron":
            drum = 0.8 * top
            pieces.append(loft(drum, under - self.apron_height * size, drum, into))
        elif self.extra == "shelf":
            shelf, low = (0.4 + 0.3 * self.fill) * top, self.lift * under
            pieces.append(loft(shelf, low, shelf, low + rail))
        return pieces

    def _legs_and_extra(self, x: float, z: float, under: float, size: float) -> list[Manifold]:
        """The parts under the top, with feet within ±x, ±z."""
        into = (under + self.height) / 2
        foot, rail, lift = self.leg_thickness * size / 2, RAIL * size, self.lift * under
        head = foot * (1 + self.taper)
        lean = self.splay * under if self.legs == "splayed" else 0.0
        # Centres of the heads: so far apart that legs do not merge, even if the feet stick out.
        x, z = max(x - head - lean / 2, 1.3 * head), max(z - head - lean / 2, 1.3 * head)
        if self.legs == "square":
            pieces = four_legs(rectangle(-foot, foot, -foot, foot), x, z, 0.0, self.taper, into)
        elif self.legs == "splayed":
            pieces = four_legs(ellipse(foot, foot), x, z, lean, self.taper, into)
        elif self.legs == "panels":
            spans = [(0, into, z + head)]
        else:  # trestles: a foot, a post and a head on each side
            spans = [(0, 2 * foot, z + head), (0, into, head), (under - 2 * foot, into, z + head)]
        if self.legs in ("panels", "trestles"):
            pieces = [
                box((side - foot, low, -wide), (side + foot, high, wide))
                for side in (-x, x)
                for low, high, wide in spans
            ]

        out = lean * (into - lift) / into  # how far splayed legs lean outward at that height
        if self.extra == "apron":
            pieces += apron(x, z, under - self.apron_height * size, into, rail)
        elif self.extra == "stretcher":
            sides = self.legs in ("square", "splayed")
            pieces += stretcher(x + out, z + out, lift, rail, sides)
        elif self.extra == "shelf":
            low, high = lift - rail / 2, lift + rail / 2
            pieces.append(box((-x - out, low, -z - out), (x + out, high, z + out)))
        elif self.extra == "cabinet":
            pieces.append(box((x - 2 * x * self.fill, lift, -z), (x, into, z)))
        return pieces


@dataclass(frozen=True)
class Chair:
    """A chair that looks along +z. Lengths are in metres, thicknesses as in Table."""

    seat: str = one_of("rectangle", "rounded", "ellipse")
    legs: str = one_of("straight", "splayed", "pedestal", "sled")
    back: str = one_of("panel", "slats", "ladder", "frame")
    arms: str = one_of("none", "open", "panel")
    rungs: bool = one_of(False, True)  # between four legs
    feet: int = one_of(0, 4, 5)  # of a pedestal; 0 is a disc
    slats: int = one_of(1, 2, 3, 4, 5)  # at most; fewer where they would be too thin
    seat_width: float = between(0.42, 0.75)
    seat_depth: float = between(0.4, 0.6)
    seat_height: float = between(0.28, 0.52)
    seat_thickness: float = between(0.05, 0.14)
    corner: float = between(0.3, 0.9)  # radius of a rounded seat's corners / half its short side
    leg_thickness: float = between(0.055, 0.085)
    taper: float = between(0.0, 0.5)  # how much thicker a leg is at its head than at its foot
    splay: float = between(0.05, 0.3)  # outward slope of splayed legs
    inset: float = between(0.0, 0.2)  # share of the half seat between the edge and the legs
    lift: float = between(0.3, 0.6)  # height of the rungs / height under the seat
    base: float = between(0.65, 1.0)  # radius of a pedestal's base / half the seat's short side
    back_height: float = between(0.28, 0.62)
    back_thickness: float = between(0.055, 0.09)
    back_corner: float = between(0.1, 0.9)  # radius of the back's upper corners / half its width
    back_gap: float = between(0.0, 0.45)  # open share of a panel's height; none if very low
    post: float = between(0.06, 0.1)  # width of the back's posts and of its top rail
    tilt: float = between(0.0, 0.3)  # backward slope of the back
    bend: float = between(0.03, 0.3)  # how far the back's sides come forward / half the seat depth
    arm_height: float = between(0.35, 0.6)  # share of the back's height
    arm_length: float = between(0.4, 0.9)  # how far arms come forward / half the seat depth

    def solid(self) -> Manifold:
        """The complete solid, standing on the plane y = 0."""
        size = max(self.seat_width, self.seat_depth, self.seat_height + self.back_height)
        half_x, half_z = self.seat_width / 2, self.seat_depth / 2
        under = self.seat_height - self.seat_thickness * size
        into = (under + self.seat_height) / 2  # legs and back end inside the seat
        seat = plate_outline(self.seat, half_x, half_z, self.corner)
        pieces = [loft(seat, under, seat, self.seat_height)]
        pieces += self._legs(half_x, half_z, under, into, size)
        pieces += self._back_and_arms(half_x, half_z, into, size)
        return union(pieces)

    def _legs(
        self, half_x: float, half_z: float, under: float, into: float, size: float
    ) -> list[Manifold]:
        """The parts under the seat."""
        foot = self.leg_thickness * size / 2
        head = foot * (1 + self.taper)
        rail = RAIL * size
        if self.legs == "pedestal":
            base = self.base * min(half_x, half_z)
            return pedestal(1.2 * foot, 1.2 * head, into, base, rail, self.feet)
        room = np.array(leg_room(self.seat, half_x, half_z, self.corner))
        x, z = np.maximum(room * (1 - self.inset) - head, 1.3 * head)
        square = rectangle(-foot, foot, -foot, foot)
        if self.legs == "sled":
            runners = [
                box((side - foot, 0, -z - foot), (side + foot, 2 * foot, z + foot))
                for side in (-x, x)
            ]
            return four_legs(square, x, z, 0.0, 0.0, into) + runners
        section = ellipse(foot, foot) if self.legs == "splayed" else square
        lean = self.splay * under if self.legs == "splayed" else 0.0
        pieces = four_legs(section, x, z, lean, self.taper, into)
        if self.rungs:
            lift = self.lift * under
            shift = (into - lift) * lean / into
            pieces += stretcher(x + shift, z + shift, lift, rail, sides=True)
        return pieces

    def _back_and_arms(
        self, half_x: float, half_z: float, into: float, size: float
    ) -> list[Manifold]:
        """The parts above the seat."""
        thickness = self.back_thickness * size
        half, rim = leg_room(self.seat, half_x, half_z, self.corner)
        half *= 0.97  # the back's sides are not in the plane of the seat's sides
        forward = self.bend * half_z
        if self.seat == "ellipse":  # the back follows the rim
            rim, forward = half_z, 0.3 * half_z
        rear = thickness / 2 - rim  # z of the back's middle where it meets the seat
        front = self._back_outline(half, into - self.seat_height, size)
        back = bent_wall(front, forward / half**2, thickness)
        tilted = [[1, 0, 0, 0], [0, 1, 0, self.seat_height], [0, -self.tilt, 1, rear]]
        pieces = [back.transform(np.array(tilted))]
        if self.arms == "none":
            return pieces

        post, rail = self.post * size, RAIL * size
        wide = 0.45 * post  # half an open arm's width: its sides are inside the back's post
        arm = self.arm_height * self.back_height
        top = self.seat_height + arm
        ahead = self.arm_length * half_z * (0.6 if self.seat == "ellipse" else 1.0)
        for x in (post / 2 - half, half - post / 2):
            middle = rear + forward * (x / half) ** 2  # of the back, at the seat
            behind = middle - self.tilt * arm
            if self.arms == "open":
                pieces.append(box((x - wide, top - rail, behind), (x + wide, top, ahead)))
                low = (x - wide, into, ahead - 1.2 * rail)
                pieces.append(box(low, (x + wide, top - rail / 2, ahead)))
            else:
                low = rectangle(x - rail / 2, x + rail / 2, middle, ahead)
                high = rectangle(x - rail / 2, x + rail / 2, behind, ahead)
                pieces.append(loft(low, into, high, top))
        return pieces

    def _back_outline(self, half: float, bottom: float, size: float) -> CrossSection:
        """The outline of the back from the front; y is the height above the seat's upper side."""
        height, post, bar = self.back_height, self.post * size, RAIL * size
        below = 2 * half  # the lower corners are rounded too, but cut off
        whole = rounded_rectangle(
            half, (height + below) / 2, min(self.back_corner * half, 0.4 * height)
        )
        whole = CrossSection([whole]).translate((0, (height - below) / 2))
        inside = half - post
        above = height - post
        if self.back == "panel":
            gap = self.back_gap * above
            openings = [((-inside, inside), (0, gap))] if gap > bar else []
        elif self.back == "frame":
            openings = [((-inside, inside), (bar, above))]
        elif self.back == "slats":
            gaps = even_gaps(-inside, inside, self.slats, bar)
            openings = [(gap, (0, above)) for gap in gaps]
        else:
            openings = [((-inside, inside), gap) for gap in even_gaps(0, above, self.slats, bar)]
        holes = CrossSection([rectangle(*x, *y) for x, y in openings])
        kept = CrossSection([rectangle(-half, half, bottom, height)])
        return (whole - (holes ^ whole.offset(-post, JoinType.Miter))) ^ kept
