from hypothesis import assume, given
from hypothesis import strategies as st

from ibkd_retrieval.evaluation.report.canvas import DARK, LIGHT, looks
from ibkd_retrieval.evaluation.report.fronts import Box, Point, pareto_front, place_labels

AREA = Box(0, 0, 400, 300)
SPOTS = st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=1, max_size=12)


def gap(box, spot):
    nearest = (min(max(spot[0], box.left), box.right), min(max(spot[1], box.bottom), box.top))
    return ((nearest[0] - spot[0]) ** 2 + (nearest[1] - spot[1]) ** 2) ** 0.5


@given(SPOTS, st.floats(20, 180))
def test_labels_lie_inside_and_over_nothing_else(spots, width):
    boxes = place_labels(spots, [(width, 14.0)] * len(spots), AREA, clearance=7)
    assume(boxes is not None)
    markers = [Box(x - 7, y - 7, x + 7, y + 7) for x, y in spots]
    for number, box in enumerate(boxes):
        assert AREA.holds(box)
        assert not any(box.meets(other) for other in [*markers, *boxes[:number]])
        # A reader takes a name for that of the nearest point.
        assert gap(box, spots[number]) <= min(gap(box, spot) for spot in spots) + 1e-9


def test_lone_labels_stand_to_the_right_and_at_the_edge_to_the_left():
    (box,) = place_labels([(200, 150)], [(80, 14)], AREA)
    assert box == Box(207, 143, 287, 157)
    (box,) = place_labels([(390, 150)], [(80, 14)], AREA)
    assert box == Box(303, 143, 383, 157)


def test_where_there_is_no_room_nothing_is_placed():
    assert place_labels([(200, 150)] * 12, [(180, 14)] * 12, Box(100, 100, 300, 200)) is None


def test_only_the_chosen_points_are_labelled_but_all_are_left_free():
    boxes = place_labels([(200, 150), (230, 150)], [(80, 14)], AREA, chosen=[0])
    assert len(boxes) == 1
    assert not boxes[0].meets(Box(223, 143, 237, 157))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=10))
def test_the_front_is_what_no_point_beats(pairs):
    look = looks(["one"])[0]
    points = [Point(str(n), look, cost, None, quality, None) for n, (cost, quality) in enumerate(pairs)]
    front = pareto_front(points)
    kept = {(point.cost, point.quality) for point in front}
    beaten = {
        (a.cost, a.quality)
        for a in points
        for b in points
        if b.cost <= a.cost and b.quality >= a.quality and (b.cost, b.quality) != (a.cost, a.quality)
    }
    assert kept == {(p.cost, p.quality) for p in points} - beaten
    assert [point.cost for point in front] == sorted(point.cost for point in front)


def test_no_two_of_two_dozen_systems_look_alike_and_one_encoder_has_one_colour():
    encoders = [f"encoder {number // 3}" for number in range(24)]
    found = looks(encoders)
    assert len({(look.marker, look.hollow) for look in found}) == 24
    assert all(len({look.colour for look in found[start : start + 3]}) == 1 for start in range(0, 24, 3))


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_stand_out_from_the_page_in_both_themes():
    for theme in (LIGHT, DARK):
        paper = luminance(theme["--paper"])
        for variable, colour in theme.items():
            lighter, darker = sorted((luminance(colour), paper), reverse=True)
            contrast = (lighter + 0.05) / (darker + 0.05)
            # WCAG 2.2: 4.5 for text, 3 for graphics; the grid is decoration.
            least = {"--ink": 4.5, "--muted": 4.5, "--grid": 1, "--paper": 1}.get(variable, 3)
            assert contrast >= least, (variable, colour, contrast)
