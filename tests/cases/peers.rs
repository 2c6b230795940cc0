//! `bench peers` with peers that are shell scripts speaking its protocol: what is right is measured, and whoever
//! gives wrong bytes, dies, hangs or cannot start has a row that says so.

use crate::bad_input::pictures;
use featcache_tests::{done, run, text};
use serde_json::Value;
use std::path::Path;

/// Sums every sample in 64-bit arithmetic that wraps, as the protocol wants it, and says that it took half a second.
const HONEST: &str = r#"
if [ "$1" = prepare ]; then
    if [ $mode = absent ]; then echo "ModuleNotFoundError: No module named 'absent'" >&2; exit 1; fi
    exit 0
fi
samples=$2
field() { grep -o "\"$1\":[0-9]*" "$2" | head -1 | cut -d: -f2; }
count=$(field count "$samples/samples.json")
bytes=$(field bytes "$samples/samples.json")
echo '{"title": "'$mode'", "version": "1.2", "settings": "a shell script", "reads": "samples"}'
while read -r request; do
    printf '%s\n' "$request" > "$samples/request"
    case $mode in
        dies) echo "OSError: no disk" >&2; echo "what came of it" >&2; exit 3;;
        hangs) sleep 600;;
        babbles) echo "good morning"; continue;;
    esac
    stride=$(field stride "$samples/request")
    epochs=$(field epochs "$samples/request")
    checks=
    for epoch in $(seq "$epochs"); do
        number=0
        while [ $number -lt "$count" ]; do
            sum=0 place=0
            for word in $(od -An -v -t d8 -w8 -j $((number * bytes)) -N "$bytes" "$samples/samples.bin"); do
                if [ $((place % stride)) = 0 ]; then sum=$((sum + (2 * (place / stride) + 1) * word)); fi
                place=$((place + 1))
            done
            if [ $mode = wrong ]; then sum=$((sum + 1)); fi
            checks="$checks,$(printf %u $sum)"
            number=$((number + 1))
        done
    done
    given=$((count * epochs))
    if [ $mode = lazy ]; then given=$((given - 1)); fi
    echo '{"seconds": 0.5, "samples": '$given', "checks": ['"${checks#,}"']}'
done
"#;

/// A bf16 store of three pictures, and the scripts of these peers.
fn set_up(folder: &Path, modes: &[&str]) -> (String, String) {
    let (root, store, scripts) = (folder.join("pictures"), folder.join("store"), folder.join("scripts"));
    pictures(&root, 3);
    let extract = "--backbone fake --compute fp32 --resize none --store bf16";
    done(&format!("--quiet extract folder --root {} --out {} {extract}", root.display(), store.display()));
    std::fs::create_dir(&scripts).unwrap();
    for mode in modes {
        std::fs::write(scripts.join(format!("{mode}.py")), format!("mode={mode}\n{HONEST}")).unwrap();
    }
    let common = format!(
        "--python sh --scripts {} --work {} --repeats 2 --threads 1 --workers 0 --batch 2 --pages warm --limit-s 3",
        scripts.display(),
        folder.join("work").display()
    );
    (store.display().to_string(), common)
}

#[test]
fn every_peer_has_its_row() {
    let modes = ["honest", "wrong", "dies", "hangs", "babbles", "lazy", "absent"];
    let folder = tempfile::tempdir().unwrap();
    let (store, common) = set_up(folder.path(), &modes);
    let page = folder.path().join("page.md");
    let bench =
        format!("bench peers {store} {common} --peers {} --markdown {}", modes.join(","), page.display());
    let outcome: Value = serde_json::from_str(&done(&format!("--quiet --json {bench}"))).unwrap();
    let rows = outcome["contestants"].as_array().unwrap();
    let row =
        |title: &str| rows.iter().find(|row| row["title"] == title).unwrap_or_else(|| panic!("{title}"));
    let expected = outcome["samples"].as_f64().unwrap() * outcome["sample_bytes"].as_f64().unwrap() / 0.5e9;
    let close = |found: &Value, expected: f64| (found.as_f64().unwrap() / expected - 1.0).abs() < 1e-9;

    for title in ["raw preadv", "featcache", "featcache, verified", "honest"] {
        let row = row(title);
        assert_eq!(row["failed"], Value::Null, "{row}");
        assert_eq!(row["bare"].as_array().unwrap().len(), 1);
        assert!(row["bare"][0]["measured"]["gb_per_s"]["min"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["loader"]["ratio"]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(row("raw preadv")["loader"]["ratio"]["max"], 1.0);
    let honest = row("honest");
    assert!(close(&honest["bare"][0]["measured"]["gb_per_s"]["median"], expected), "{honest}");
    assert!(
        close(&honest["loader"]["gb_per_s"]["median"], 3.0 * expected),
        "three epochs in as long: {honest}"
    );
    assert_eq!((&honest["workers"], &honest["version"]), (&0.into(), &"1.2".into()));

    for (title, why) in [
        ("wrong", "wrong bytes"),
        ("dies", "ended with exit status: 3: OSError: no disk"),
        ("hangs", "no answer within 3 s"),
        ("babbles", "answered \"good morning\""),
        ("lazy", "gave 2 samples, expected 3"),
        ("absent", "No module named 'absent'"),
    ] {
        let row = row(title);
        let failed = row["failed"].as_str().unwrap_or_default();
        assert!(failed.contains(why), "{title}: {failed}");
        assert_eq!((&row["bare"][0]["measured"], &row["loader"]), (&Value::Null, &Value::Null), "{title}");
    }
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(
        page.contains("| dies | failed | – |") && page.contains("- dies: ended with exit status: 3"),
        "{page}"
    );
    assert!(page.contains("honest 1.2: a shell script"), "{page}");
    assert_eq!(std::fs::read_dir(folder.path().join("work")).unwrap().count(), 0, "nothing stays");
}

#[test]
fn what_no_row_could_say_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let (store, common) = set_up(folder.path(), &["honest"]);
    let quantised = folder.path().join("quantised").display().to_string();
    let root = folder.path().join("pictures").display().to_string();
    done(&format!(
        "--quiet extract folder --root {root} --out {quantised} --backbone fake --compute fp32 --resize none \
         --store int8"
    ));
    for (store, extra, code, what) in [
        (store.as_str(), "--peers nobody", 3, "expected a script"),
        (store.as_str(), "--peers honest --python /nowhere/python", 3, "cannot be started"),
        ("/nowhere/store", "--peers honest", 3, "a featcache store"),
        (quantised.as_str(), "--peers honest", 3, "expected bf16"),
        (store.as_str(), "--peers honest --limit-s 0", 2, "--limit-s"),
    ] {
        let output = run(&format!("--quiet bench peers {store} {common} {extra}"));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{extra}: {error}");
        assert!(error.contains(what), "{extra}: {error}");
    }
}
