//! Recipes of detectors: presets, keys that override them, values that are refused.

use featcache_heads::detector::Detector;
use featcache_heads::recipe::detector::{DetectorKind, DetectorRecipe, NeckKind, Preset};
use featcache_heads::{Error, Precision};
use featcache_store::LevelSpec;
use tch::Device;

const PRESETS: [Preset; 6] = [
    Preset::MaskRcnn,
    Preset::Cascade,
    Preset::CascadeGiou,
    Preset::Htc,
    Preset::Torchvision,
    Preset::TorchvisionV2,
];

#[test]
fn presets_read_back_as_they_were_written() {
    for preset in PRESETS {
        let recipe = DetectorRecipe::preset(preset);
        recipe.check().unwrap();
        assert_eq!(recipe.preset, preset);
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::from_str::<DetectorRecipe>(&text).unwrap(), recipe, "{text}");
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<DetectorRecipe>(&json).unwrap(), recipe);
    }
}

#[test]
fn keys_override_their_preset() {
    let text = "[neck]\nkind = \"bifpn\"\nrepeats = 3\n[head]\nkind = \"htc\"\n[head.semantic]\nclasses = 20\n[inference.soft_nms]\n";
    let recipe: DetectorRecipe = toml::from_str(text).unwrap();
    assert_eq!(recipe.preset, Preset::Htc);
    assert_eq!((recipe.neck.kind, recipe.neck.repeats, recipe.neck.channels), (NeckKind::BiFpn, 3, 256));
    assert_eq!((recipe.head.kind, recipe.head.stages.len()), (DetectorKind::Htc, 3));
    assert_eq!(recipe.semantic_classes(), Some(20));
    assert!(recipe.inference.soft_nms.is_some());
    assert!((recipe.inference.score - 0.001).abs() < 1e-12);
    recipe.check().unwrap();
    for (text, expected) in [
        ("[neck]\nwidth = 3\n", "width"),
        ("preset = \"retina\"\n", "retina"),
        ("[head]\nkind = \"yolo\"\n", "yolo"),
        ("[neck]\nchannels = -1\n", "-1"),
    ] {
        let error = toml::from_str::<DetectorRecipe>(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (text, expected) in [
        ("[neck]\nchannels = 0\n", "neck.channels is 0, expected 1 to 65536"),
        ("[head]\nstages = []\n", "head.stages is 0"),
        // Loops without end, saturated sides, overflowing capacities: refused before anything is built.
        ("[neck]\noutputs = 4000000000\n", "neck.outputs is 4000000000, expected 1 to 16"),
        ("[neck]\nrepeats = 4000000000\n", "neck.repeats is 4000000000"),
        ("[rpn]\nconvs = 4000000000\n", "rpn.convs is 4000000000"),
        ("[rpn]\nchannels = 4000000000\n", "rpn.channels is 4000000000"),
        ("[rpn.test]\nkeep = 4000000000\n", "rpn.test.keep is 4000000000"),
        ("[head]\nroi_sampling = 65536\n", "head.roi_sampling is 65536, expected at most 64"),
        ("[head]\nsamples = 4000000000\n", "head.samples is 4000000000"),
        ("[head.box]\nside = 65536\n", "head.box.side is 65536, expected 1 to 512"),
        ("[head.box]\nconvs = 4000000000\n", "head.box.convs is 4000000000"),
        ("[head.box]\nfcs = 65\n", "head.box.fcs is 65"),
        ("[head.mask]\nside = 513\n", "head.mask.side is 513, expected 1 to 512"),
        ("[head.mask]\nconvs = 65\n", "head.mask.convs is 65"),
        ("[inference]\nmax = 4000000000\n", "inference.max is 4000000000"),
        (
            "[head]\nkind = \"htc\"\n[head.semantic]\nclasses = 40000\n",
            "head.semantic.classes is 40000, expected 1 to 32767",
        ),
        ("[rpn]\nnms = 1.5\n", "rpn.nms is 1.5"),
        ("[rpn.loss]\nkind = \"giou\"\n", "rpn.loss.kind"),
        ("[head.semantic]\n", "head.semantic is given"),
    ] {
        let recipe: DetectorRecipe = toml::from_str(text).unwrap();
        let error = recipe.check().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// Every key is within its limits, and so would be a checkpoint's; their product is not.
#[test]
fn a_model_too_large_for_any_machine_is_refused_before_memory_is_taken() {
    let level = |channels| LevelSpec {
        name: "p2".into(),
        stride: 4,
        channels,
        tap: "stage0".into(),
        norm: "none".into(),
    };
    let mut wide = DetectorRecipe::default();
    (wide.head.boxes.side, wide.head.boxes.fc_channels) = (512, 65_536);
    for (recipe, channels, expected) in [
        (&wide, 8, "tensor roi_head.bbox_head.shared_fcs.0.weight"),
        (&DetectorRecipe::default(), u32::MAX, "tensor neck.norms.p2.weight"),
    ] {
        let error =
            Detector::new(recipe, Precision::Fp32, vec![level(channels)], 3, 0, Device::Cpu).unwrap_err();
        assert!(matches!(&error, Error::Invalid { what } if what.starts_with(expected)), "{error}");
    }
}
