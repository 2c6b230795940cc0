//! Recipes of detectors: presets, keys that override them, values that are refused.

use featcache_heads::recipe::detector::{DetectorKind, DetectorRecipe, NeckKind, Preset};

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
        ("[neck]\nchannels = 0\n", "neck.channels is 0, expected at least 1"),
        ("[head]\nstages = []\n", "head.stages is 0"),
        ("[rpn]\nnms = 1.5\n", "rpn.nms is 1.5"),
        ("[rpn.loss]\nkind = \"giou\"\n", "rpn.loss.kind"),
        ("[head.semantic]\n", "head.semantic is given"),
    ] {
        let recipe: DetectorRecipe = toml::from_str(text).unwrap();
        let error = recipe.check().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
