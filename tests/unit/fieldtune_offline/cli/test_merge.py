"""What ``fieldtune-offline merge`` refuses before anything is folded."""

from builders import image_spec, lora_adapter, manifest, merged_manifest, write_bundle
from fieldtune.adapters.directory import write_adapter
from fieldtune_offline.cli import main


def test_bundles_and_adapters_that_are_none(tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    write_adapter(lora_adapter(), tmp_path / "adapter")
    bundle = write_bundle(tmp_path / "bundle", manifest(image=image_spec()), {}).root
    merged = write_bundle(tmp_path / "merged", merged_manifest(), {}).root
    out = tmp_path / "out"
    for first, second, said in (
        (tmp_path / "none", tmp_path / "adapter", "not a bundle"),
        (merged, tmp_path / "adapter", "merged into its weights"),
        (bundle, tmp_path / "none", "not a PEFT adapter (no such folder)"),
    ):
        assert main(["merge", str(first), str(second), "--out", str(out)]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert said in printed.err, printed.err
        assert not out.exists()
