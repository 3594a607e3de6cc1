import fieldtune_offline


def test_every_public_name_is_there():
    assert all(callable(getattr(fieldtune_offline, name)) for name in fieldtune_offline.__all__)
    assert fieldtune_offline.merge_adapter.__module__ == "fieldtune_offline.merge"
