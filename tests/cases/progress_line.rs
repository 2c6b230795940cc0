//! The progress line of an extraction: all of it on a terminal of 80 columns.

use featcache::progress::Line;

const LINE: Line = Line {
    done: 36_781,
    total: 118_287,
    images_per_second: 3.42,
    bytes: 125_250_000_000,
    failed: 2,
    bottleneck: "backbone-bound",
};

#[test]
fn a_line_says_rate_bytes_time_failures_and_bottleneck() {
    let text = "36781/118287 3.42 img/s · 125 GB · 6h 37m left · 2 failed · backbone-bound";
    assert_eq!(LINE.to_string(), text);
    let starting = Line { done: 0, images_per_second: 0.0, bytes: 0, failed: 0, ..LINE };
    let starting = Line { bottleneck: "starting", ..starting };
    assert_eq!(starting.to_string(), "0/118287 0.00 img/s · 0 B · estimating · 0 failed · starting");
}

#[test]
fn the_longest_lines_fit_80_columns() {
    // All of COCO in two views, the whole of it failing.
    let longest = Line { done: 123_287, total: 246_574, failed: 123_286, bytes: 9_876_000_000_000, ..LINE };
    for images_per_second in [1e-4, 0.012, 1.5, 9.999, 99.99, 1234.5] {
        let text = Line { images_per_second, ..longest }.to_string();
        assert!(text.chars().count() < Line::COLUMNS, "{text}");
        let parts =
            ["123287/246574 ", " img/s ", " 9.88 TB ", " left ", " 123286 failed ", " backbone-bound"];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}
