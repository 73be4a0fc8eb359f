"""Procedural classes of shapes: the project's embedded default data.

Tables and chairs, y up, metre-like size. Each is a union of solid pieces made by manifold3d, so
every mesh is watertight, outward oriented and one body. A shape depends only on (class, seed,
index), so anyone can make the same data set again without a download.

    python -m metasdf.preparation.shapes OUT_DIR --classes tables chairs --count 160 --seed 0
"""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from manifold3d import CrossSection, JoinType, Manifold, OpType
from tqdm import tqdm

from metasdf.errors import InputError, run_command
from metasdf.files import atomic_path

SEGMENTS = 32  # sides of a round piece
RAIL = 0.055  # thickness of rails, aprons, shelves and arms, as a share of the largest dimension
DECIMALS = 7  # of a coordinate, in memory and on disk: a file gives back exactly the mesh


def between(low: float, high: float) -> Any:
    """A parameter drawn uniformly from [low, high)."""
    return dataclasses.field(metadata={"draw": lambda rng: float(rng.uniform(low, high))})


def one_of(*choices: Any) -> Any:
    """A parameter drawn from `choices`, all equally likely."""

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
        """The whole, standing on the plane y = 0."""
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
        into = (under + self.height) / 2  # what carries the top ends inside it and fuses with it
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
        """What stands under the top, its feet within ±x, ±z."""
        into = (under + self.height) / 2
        foot, rail, lift = self.leg_thickness * size / 2, RAIL * size, self.lift * under
        head = foot * (1 + self.taper)
        lean = self.splay * under if self.legs == "splayed" else 0.0
        # Centres of the heads: not so near that the legs merge, even if the feet stick out.
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

        out = lean * (into - lift) / into  # how far splayed legs have come out at that height
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
        """The whole, standing on the plane y = 0."""
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
        """The back seen from the front; y is the height above the seat's upper side."""
        height, post, bar = self.back_height, self.post * size, RAIL * size
        below = 2 * half  # the lower corners are rounded as well, far below the part that is kept
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


CLASSES: dict[str, type[Table] | type[Chair]] = {"tables": Table, "chairs": Chair}


def shape_class(class_name: str) -> type[Table] | type[Chair]:
    """The class of that name. Raises InputError for an unknown one."""
    if class_name not in CLASSES:
        known = ", ".join(CLASSES)
        raise InputError(f"no class of shapes is called {class_name!r}; choose from: {known}")
    return CLASSES[class_name]


def draw_shape(class_name: str, seed: int, index: int) -> Table | Chair:
    """The parameters of one shape; they depend on the three arguments only.

    Seed and index are not negative. Raises InputError for an unknown class.
    """
    kind = shape_class(class_name)
    rng = np.random.default_rng([*class_name.encode(), seed, index])
    return kind(**{f.name: f.metadata["draw"](rng) for f in dataclasses.fields(kind)})


def make_shape(class_name: str, seed: int, index: int) -> trimesh.Trimesh:
    """One shape as a watertight mesh of one body, its bounding box centred at the origin.

    Coordinates are rounded to DECIMALS. Raises InputError for an unknown class.
    """
    mesh = draw_shape(class_name, seed, index).solid().to_mesh64()
    vertices = mesh.vert_properties[:, :3]
    vertices = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    return trimesh.Trimesh(vertices.round(DECIMALS), mesh.tri_verts, process=False)


def write_shapes(
    folder: str | os.PathLike, class_name: str, count: int, seed: int = 0
) -> list[str]:
    """Write shapes 0 .. count - 1 as `<folder>/<class_name>/<class_name>_<index:04d>.obj`.

    Files that exist are kept as they are, so an interrupted call can be repeated; for another
    seed choose another folder.

    Returns the instance names (file names without suffix). Raises InputError for an unknown class
    and for a folder that cannot be written.
    """
    names = [f"{class_name}_{index:04d}" for index in range(count)]
    for index, name in enumerate(tqdm(names, desc=class_name, disable=None)):
        path = Path(folder) / class_name / f"{name}.obj"
        if not path.exists():
            mesh = make_shape(class_name, seed, index)
            with atomic_path(path) as temporary:
                mesh.export(temporary, digits=DECIMALS, header=None, include_normals=False)
    return names


def union(pieces: Sequence[Manifold]) -> Manifold:
    """The union, simplified within 0.01 mm: a plain union has a degenerate face now and then."""
    return Manifold.batch_boolean(pieces, OpType.Add).simplify(1e-5)


def box(low: Sequence[float], high: Sequence[float]) -> Manifold:
    """The box between two corners (x, y, z)."""
    return Manifold.cube(np.subtract(high, low)).translate(low)


def loft(low_ring: np.ndarray, low: float, high_ring: np.ndarray, high: float) -> Manifold:
    """The convex solid between two outlines, (n, 2) and (m, 2) of (x, z), at two heights."""
    rings = ((low_ring, low), (high_ring, high))
    points = [np.insert(ring, 1, height, axis=1) for ring, height in rings]
    return Manifold.hull_points(np.concatenate(points))


def rectangle(low_u: float, high_u: float, low_v: float, high_v: float) -> np.ndarray:
    """Corners (4, 2) of an axis-aligned rectangle, counterclockwise."""
    return np.array([[low_u, low_v], [high_u, low_v], [high_u, high_v], [low_u, high_v]])


def ellipse(half_u: float, half_v: float) -> np.ndarray:
    """Outline (SEGMENTS, 2) of an ellipse around the origin, counterclockwise."""
    angle = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    return np.stack([half_u * np.cos(angle), half_v * np.sin(angle)], axis=1)


def rounded_rectangle(half_u: float, half_v: float, radius: float) -> np.ndarray:
    """Outline (SEGMENTS + 4, 2) of a rectangle with round corners, counterclockwise."""
    quarter = np.linspace(0, np.pi / 2, SEGMENTS // 4 + 1)
    arcs = []
    for k, (sign_u, sign_v) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        angle = quarter + k * np.pi / 2
        centre = (sign_u * (half_u - radius), sign_v * (half_v - radius))
        arcs.append(np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + centre)
    return np.concatenate(arcs)


def plate_outline(shape: str, half_x: float, half_z: float, corner: float) -> np.ndarray:
    """Outline (n, 2) of a top or seat; `corner` is a share of the shorter half side."""
    if shape == "rectangle":
        return rectangle(-half_x, half_x, -half_z, half_z)
    if shape == "rounded":
        return rounded_rectangle(half_x, half_z, corner * min(half_x, half_z))
    return ellipse(half_x, half_z)


def leg_room(shape: str, half_x: float, half_z: float, corner: float) -> tuple[float, float]:
    """Half sides (x, z) of a rectangle that lies within the plate of that outline."""
    if shape == "rectangle":
        return half_x, half_z
    if shape == "rounded":
        cut = 0.3 * corner * min(half_x, half_z)  # 1 - sqrt(1/2) of the radius, and a little
        return half_x - cut, half_z - cut
    return 0.7 * half_x, 0.7 * half_z


def even_gaps(low: float, high: float, bars: int, thinnest: float) -> np.ndarray:
    """The gaps (n, 2) between equal bars in [low, high], each as wide as a bar.

    There are as many bars as asked for, or fewer (but one) where they would be too thin.
    """
    bars = max(1, min(bars, int(((high - low) / thinnest - 1) / 2)))
    return np.linspace(low, high, 2 * bars + 2).reshape(-1, 2)


def four_legs(
    section: np.ndarray, x: float, z: float, lean: float, taper: float, top: float
) -> list[Manifold]:
    """Legs from (±x, top, ±z) down to feet that stand `lean` further out in x and in z.

    `section` is the outline (n, 2) of a foot around the origin; the heads are 1 + taper as big.
    """
    pieces = []
    for corner in np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]):
        head = (1 + taper) * section + corner * (x, z)
        foot = section + corner * (x + lean, z + lean)
        pieces.append(loft(foot, 0, head, top))
    return pieces


def bent_wall(front: CrossSection, bend: float, thickness: float) -> Manifold:
    """A wall around the surface z = bend x² that looks like `front` (x, y) from the front."""
    left, bottom, right, top = front.bounds()
    # Longer and higher than `front`, so that no face of the wall lies in a face of the cut.
    x = np.linspace(1.1 * left, 1.1 * right, SEGMENTS // 2)
    across = (
        thickness / 2 * np.hypot(1, 2 * bend * x)
    )  # along z, for the thickness along the normal
    near, far = bend * x**2 + across, bend * x**2 - across
    plan = np.stack([np.append(x, x[::-1]), np.append(-near, -far[::-1])], axis=1)  # (x, -z)
    wall = CrossSection([plan]).extrude(2 * (top - bottom)).rotate((-90, 0, 0))
    reach = np.abs(plan[:, 1]).max()
    cut = front.extrude(3 * reach).translate((0, 0, -1.5 * reach))
    return wall.translate((0, bottom - (top - bottom) / 2, 0)) ^ cut


def stretcher(x: float, z: float, height: float, thickness: float, sides: bool) -> list[Manifold]:
    """A bar from side to side at x = ±x, and if `sides` one along z at each side: an H.

    The middle bar is a little thinner than the sides: faces in one plane give degenerate triangles.
    """
    half, middle = thickness / 2, 0.45 * thickness
    pieces = [box((-x, height - middle, -middle), (x, height + middle, middle))]
    if sides:
        for at in (-x, x):
            pieces.append(box((at - half, height - half, -z), (at + half, height + half, z)))
    return pieces


def apron(x: float, z: float, low: float, high: float, thickness: float) -> list[Manifold]:
    """Four upright boards around the rectangle ±x, ±z."""
    half = thickness / 2
    pieces = [box((at - half, low, -z), (at + half, high, z)) for at in (-x, x)]
    return pieces + [box((-x, low, at - half), (x, high, at + half)) for at in (-z, z)]


def pedestal(
    low_radius: float, high_radius: float, top: float, base: float, thickness: float, feet: int
) -> list[Manifold]:
    """A column with a flare above its base: a disc of radius `base`, or a star of `feet`."""
    low, high = ellipse(low_radius, low_radius), ellipse(high_radius, high_radius)
    pieces = [loft(low, 0, high, top), loft(2 * low, thickness / 2, low, 2.5 * thickness)]
    if feet == 0:
        disc = ellipse(base, base)
        return [*pieces, loft(disc, 0, 0.9 * disc, thickness)]
    foot = box((0, 0, -0.6 * thickness), (base, 1.1 * thickness, 0.6 * thickness))
    return pieces + [foot.rotate((0, 90 + 360 * k / feet, 0)) for k in range(feet)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m metasdf.preparation.shapes",
        description="Write procedural shapes as OBJ files.",
    )
    parser.add_argument("out_dir", type=Path, help="folder to write <class>/<instance>.obj into")
    parser.add_argument("--classes", nargs="+", default=list(CLASSES), help="default: all")
    parser.add_argument("--count", type=int, default=160, help="shapes per class (default 160)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other shapes")
    args = parser.parse_args(argv)
    if args.count < 1 or args.seed < 0:
        raise InputError("--count must be at least 1 and --seed at least 0")
    for name in args.classes:
        shape_class(name)  # before anything is written
    for name in args.classes:
        write_shapes(args.out_dir, name, args.count, args.seed)
    print(f"{args.out_dir}: {args.count} shapes of each class: {', '.join(args.classes)}")
    return 0


if __name__ == "__main__":
    run_command(main)
