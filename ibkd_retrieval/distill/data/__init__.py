"""The data of a distillation run: texts, pairs, tokens, order, hard negatives."""
