"""SAM4MLLM becomes a bundle."""


def test_x(chat_bundle, capsys):
    print(chat_bundle.manifest)
