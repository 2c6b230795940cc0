//! Pictures: the principal axes are the true ones, colours are shared, and nothing that is drawn
//! anywhere, at any size, panics.

use featcache::picture::instances::{Bitmap, Instance};
use featcache::picture::overlay::{self, BoxMark, LabelMap};
use featcache::picture::{Canvas, LevelMap, Palette, PcaBasis, Sheet, SheetRow, TextSize, text_width};
use proptest::prelude::*;

/// Numbers that look random and are the same each time, -1..1.
fn noise(index: usize) -> f32 {
    let bits = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (bits >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}

/// `[n, channels]` features: a mean, three orthogonal directions of known strength, a little noise.
fn low_rank(cells: usize, channels: usize, seed: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut directions: Vec<Vec<f32>> = Vec::new();
    for k in 0..3 {
        let mut direction: Vec<f32> = (0..channels).map(|c| noise(seed + 7919 * (k + 1) + c)).collect();
        for other in &directions {
            let along: f32 = direction.iter().zip(other).map(|(a, b)| a * b).sum();
            direction.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
        }
        let length = direction.iter().map(|v| v * v).sum::<f32>().sqrt();
        directions.push(direction.into_iter().map(|v| v / length).collect());
    }
    let strength = [9.0, 4.0, 2.0];
    let mut features = Vec::with_capacity(cells * channels);
    for cell in 0..cells {
        let weights: Vec<f32> = (0..3).map(|k| strength[k] * noise(seed + 31 * cell + k)).collect();
        features.extend((0..channels).map(|c| {
            let signal: f32 = (0..3).map(|k| weights[k] * directions[k][c]).sum();
            5.0 + noise(c) + signal + 0.01 * noise(seed + cell * channels + c + 13)
        }));
    }
    (features, directions)
}

#[test]
fn pca_finds_known_directions() {
    for channels in [3, 8, 96, 1000] {
        let (features, directions) = low_rank(40 * 50, channels, channels);
        let map = LevelMap::new(40, 50, channels, &features).unwrap();
        let basis = PcaBasis::fit(&[map]).unwrap();
        assert_eq!(basis.axes().len(), 3);
        for (found, known) in basis.axes().iter().zip(&directions) {
            let cosine: f32 = found.iter().zip(known).map(|(a, b)| a * b).sum();
            assert!(cosine.abs() > 0.99, "{channels} channels: cosine {cosine}");
            let largest = found.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
            assert!(largest > 0.0, "the sign is not fixed");
        }
        assert_eq!(basis, PcaBasis::fit(&[map]).unwrap());
    }
}

#[test]
fn pca_ignores_a_few_huge_cells_and_holes() {
    let channels = 16;
    let (mut features, directions) = low_rank(30 * 30, channels, 5);
    for cell in [3, 400, 777] {
        features[cell * channels..][..channels]
            .iter_mut()
            .enumerate()
            .for_each(|(c, v)| *v = 300.0 * noise(c + 99));
    }
    features[10 * channels..][..channels].fill(f32::NAN);
    let map = LevelMap::new(30, 30, channels, &features).unwrap();
    let basis = PcaBasis::fit(&[map]).unwrap();
    let cosine: f32 = basis.axes()[0].iter().zip(&directions[0]).map(|(a, b)| a * b).sum();
    assert!(cosine.abs() > 0.95, "cosine {cosine}");
    let picture = basis.render(map).unwrap();
    assert_eq!(
        picture.get(10, 0),
        Some([60, 60, 66]),
        "a cell without features is not a colour of the basis"
    );
    let shades: std::collections::BTreeSet<u8> = picture.rgb().iter().copied().collect();
    assert!(shades.len() > 100, "the huge cells took the contrast: {} shades", shades.len());
}

#[test]
fn one_basis_gives_equal_features_equal_colours() {
    let (a, _) = low_rank(20 * 20, 12, 1);
    let (b, _) = low_rank(20 * 10, 12, 1);
    let maps = [LevelMap::new(20, 20, 12, &a).unwrap(), LevelMap::new(20, 10, 12, &b).unwrap()];
    let basis = PcaBasis::fit(&maps).unwrap();
    let mut mixed = b.clone();
    mixed[..12].copy_from_slice(&a[12 * 123..][..12]);
    let picture = basis.render(LevelMap::new(20, 10, 12, &mixed).unwrap()).unwrap();
    assert_eq!(picture.get(0, 0), basis.render(maps[0]).unwrap().get(123 % 20, 123 / 20));
    let part = basis.render(maps[0].cropped(7, 5)).unwrap();
    assert_eq!((part.height(), part.width()), (7, 5));
    assert_eq!(part, basis.render(maps[0]).unwrap().cropped(5, 7));
}

#[test]
fn degenerate_levels_are_grey_and_wrong_ones_are_refused() {
    for channels in [1, 2, 5] {
        let features = vec![2.5; 6 * channels];
        let map = LevelMap::new(2, 3, channels, &features).unwrap();
        let picture = PcaBasis::fit(&[map]).unwrap().render(map).unwrap();
        assert_eq!(picture, Canvas::new(3, 2, [128; 3]));
    }
    let empty = LevelMap::new(0, 4, 8, &[]).unwrap();
    assert_eq!(PcaBasis::fit(&[empty]).unwrap().render(empty).unwrap(), Canvas::new(4, 0, [0; 3]));
    assert!(PcaBasis::fit(&[]).is_err());
    assert!(LevelMap::new(2, 2, 2, &[0.0; 7]).is_err());
    assert!(LevelMap::new(2, 2, 0, &[]).is_err());
    let (two, three) =
        (LevelMap::new(1, 1, 2, &[0.0; 2]).unwrap(), LevelMap::new(1, 1, 3, &[0.0; 3]).unwrap());
    assert!(PcaBasis::fit(&[two, three]).is_err());
    assert!(PcaBasis::fit(&[two]).unwrap().render(three).is_err());
}

#[test]
fn text_leaves_ink_where_it_should() {
    let mut canvas = Canvas::new(80, 40, [0; 3]);
    canvas.text(4, 10, "mIoU", TextSize::Small, [255; 3]);
    let ink = |x: std::ops::Range<usize>, y: std::ops::Range<usize>| {
        y.flat_map(|y| x.clone().map(move |x| (x, y)))
            .filter(|&(x, y)| canvas.get(x, y) != Some([0; 3]))
            .count()
    };
    let width = text_width("mIoU", TextSize::Small);
    assert!(ink(4..4 + width, 10..26) > 60);
    assert_eq!(ink(0..80, 0..40), ink(4..4 + width, 10..26), "ink outside the line");
    // What the typeface lacks is a question mark, not nothing.
    let draw = |text: &str| {
        let mut canvas = Canvas::new(20, 20, [0; 3]);
        canvas.text(0, 0, text, TextSize::Strong, [255; 3]);
        canvas
    };
    assert_eq!(draw("\u{4e2d}"), draw("?"));
    assert_ne!(draw("\u{d7}"), draw("?"));
}

#[test]
fn labels_tint_only_what_is_labelled_and_contours_mark_changes() {
    let picture = Canvas::new(4, 2, [100; 3]);
    let classes = [0, 0, LabelMap::IGNORE, LabelMap::IGNORE, 0, 0, LabelMap::IGNORE, LabelMap::IGNORE];
    let map = LabelMap::new(4, 2, &classes).unwrap();
    let palette = Palette::new(3);
    let drawn = overlay::labels(&picture, &map, &palette, 1.0);
    assert_eq!(drawn.get(0, 0), Some(palette.color(0)));
    assert_eq!(drawn.get(3, 1), Some([100; 3]));
    assert_ne!(drawn.get(1, 0), drawn.get(0, 0), "no contour");
    assert!(LabelMap::new(4, 2, &classes[1..]).is_err());
}

#[test]
fn classes_have_their_own_colours() {
    for classes in [1, 2, 12, 24, 80, 150] {
        let palette = Palette::new(classes);
        let colors: std::collections::BTreeSet<_> = (0..classes).map(|class| palette.color(class)).collect();
        assert_eq!(colors.len(), classes, "{classes} classes");
    }
    assert_eq!(Palette::new(0).color(3), [128; 3]);
}

#[test]
fn png_files_hold_the_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let canvas = Canvas::from_rgb(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
    canvas.write_png(&path).unwrap();
    let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut bytes).unwrap();
    assert_eq!(bytes, canvas.rgb());
    assert!(Canvas::from_rgb(2, 2, vec![0; 11]).is_err());
    assert!(Canvas::new(0, 3, [0; 3]).png().is_err(), "PNG has no empty pictures");
    let missing = dir.path().join("no folder/a.png");
    let error = format!("{:#}", canvas.write_png(&missing).unwrap_err());
    assert!(error.contains("no folder"), "{error}");
}

#[test]
fn captions_of_one_place_lie_side_by_side() {
    let palette = Palette::new(2);
    let mark = |class| BoxMark { bbox: [40.0, 60.0, 90.0, 70.0], caption: "name".to_owned(), class };
    let drawn = overlay::boxes(&Canvas::new(200, 160, [0; 3]), &[mark(0), mark(1)], &palette);
    // The one in front on the edge, the other below the edge and over the outline of both.
    assert_eq!(drawn.get(41, 50), Some(palette.color(1)));
    assert_eq!(drawn.get(41, 70), Some(palette.color(0)));
}

#[test]
fn objects_shrink_with_their_picture() {
    let mark = BoxMark { bbox: [4.0, 2.0, 8.0, 6.0], caption: String::new(), class: 1 };
    let inside = (0..16 * 10).map(|at| u8::from(at % 16 >= 8)).collect();
    let object = Instance { mark, mask: Some(Bitmap::new([0, 0, 16, 10], inside).unwrap()) };
    let small = object.scaled((16, 10), (8, 5));
    assert_eq!(small.mark.bbox, [2.0, 1.0, 4.0, 3.0]);
    let halves = (0..8 * 5).map(|at| u8::from(at % 8 >= 4)).collect();
    assert_eq!(small.mask, Some(Bitmap::new([0, 0, 8, 5], halves).unwrap()));
    assert_eq!(object.scaled((16, 10), (0, 0)).mask, Some(Bitmap::new([0; 4], Vec::new()).unwrap()));
    // Only the part with pixels is there, and lies where it did; odd edges go where their middles are shown.
    let part = |place: [usize; 4]| Some(Bitmap::new(place, vec![1; place[2] * place[3]]).unwrap());
    let object = Instance { mask: part([8, 2, 8, 6]), ..object };
    assert_eq!(object.scaled((16, 10), (8, 5)).mask, part([4, 1, 4, 3]));
    let object = Instance { mask: part([7, 3, 4, 5]), ..object };
    assert_eq!(object.scaled((16, 10), (8, 5)).mask, part([3, 1, 2, 3]));
    assert_eq!(object.scaled((16, 10), (32, 20)).mask, part([14, 6, 8, 10]));
}

fn extreme() -> impl Strategy<Value = i64> {
    prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), -40i64..40, any::<i64>()]
}

proptest! {
    #[test]
    fn nothing_drawn_anywhere_panics(
        (width, height) in (0usize..40, 0usize..40),
        (x, y) in (extreme(), extreme()),
        (w, h) in (prop_oneof![0usize..50, Just(usize::MAX)], prop_oneof![0usize..50, Just(usize::MAX)]),
        text in ".{0,12}",
        bbox in prop::array::uniform4(prop_oneof![any::<f64>(), -50.0..50.0f64]),
    ) {
        let mut canvas = Canvas::new(width, height, [9; 3]);
        canvas.fill(x, y, w, h, [1; 3]);
        canvas.outline(x, y, w, h, w, [2; 3]);
        canvas.blend(x, y, [3; 3], f32::NAN);
        for size in [TextSize::Small, TextSize::Strong, TextSize::Title] {
            canvas.text(x, y, &text, size, [4; 3]);
            canvas.text_within(x, y, w, &text, size, [4; 3]);
        }
        canvas.paste(x, y, &Canvas::new(7, 5, [5; 3]));
        let palette = Palette::new(width);
        let mark = BoxMark { bbox, caption: text, class: h };
        canvas = overlay::boxes(&canvas, &[mark], &palette);
        prop_assert_eq!((canvas.width(), canvas.height()), (width, height));
        let scaled = canvas.scaled(h.min(30), w.min(30));
        prop_assert_eq!((scaled.width(), scaled.height()), (h.min(30), w.min(30)));
        let fitted = canvas.fitted(20, 10);
        prop_assert!(fitted.width() <= 20 && fitted.height() <= 10);
        let classes = vec![1; 6];
        overlay::labels(&canvas, &LabelMap::new(3, 2, &classes).unwrap(), &palette, 0.5);
    }
}

#[test]
fn sheets_hold_whatever_they_are_given() {
    let empty = Sheet {
        title: String::new(),
        subtitle: String::new(),
        columns: Vec::new(),
        rows: Vec::new(),
        legend: Vec::new(),
        footnotes: Vec::new(),
        cell: (0, 0),
    };
    let palette = Palette::new(2);
    assert!(empty.draw(&palette).width() > 0);
    let cells =
        vec![Canvas::new(0, 0, [0; 3]), Canvas::new(1, 3000, [255; 3]), Canvas::new(64, 32, [255, 0, 0])];
    let row = SheetRow { caption: "a caption".repeat(90), cells };
    let full = Sheet {
        title: "title".repeat(80),
        columns: vec!["a".into(), "b".into()],
        rows: vec![row.clone(), row],
        legend: (0..200).map(|class| format!("class {class}")).collect(),
        footnotes: vec!["note".into()],
        cell: Sheet::DEFAULT_CELL,
        ..empty
    };
    let page = full.draw(&palette);
    assert_eq!(page.width(), 2 * 24 + 3 * 224 + 2 * 10);
    // The third cell is twice as wide as high and fills its column.
    let red = page.rgb().chunks_exact(3).filter(|pixel| *pixel == [255, 0, 0]).count();
    assert_eq!(red, 2 * 224 * 112);
}
