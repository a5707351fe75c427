"""TF-IDF and a linear support vector machine of scikit-learn, measured as `benches/meaning.rs` measures the router's classifier.

The same utterances are drawn, and each intent's name is one more. Out of scope is told by the highest probability, which comes from
scikit-learn's own calibration (sigmoid, three folds); intents with fewer than three texts could not be calibrated.
"""

import json
import sys
import time

import numpy
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

SEEDS, BINS, TIMED = 5, 15, 500


def draw(seed, text):
    value = 0xCBF29CE484222325
    for byte in f"{seed} {text}".encode():
        value = (value ^ byte) * 0x01000001B3 % 2**64
    return value


def measure(data, shots, seed):
    by_intent = {}
    for text, intent in data["train"]:
        by_intent.setdefault(intent, []).append(text)
    texts, labels = [], []
    for intent, utterances in sorted(by_intent.items()):
        utterances = sorted(utterances, key=lambda text: draw(seed, text))[:shots]
        texts += [intent.replace("_", " "), *utterances]
        labels += [intent] * (1 + len(utterances))
    started = time.perf_counter()
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    features = make_union(words, pieces)
    plain = make_pipeline(features, LinearSVC()).fit(texts, labels)
    rows = features.transform(texts)
    calibrated = CalibratedClassifierCV(LinearSVC(), cv=3).fit(rows, labels)
    training = time.perf_counter() - started
    inside, outside = data["test"], data.get("oos_test", [])
    queries = [text for text, _ in inside + outside]
    scores = calibrated.predict_proba(features.transform(queries)).max(axis=1)
    said = plain.predict(queries)
    right = numpy.array([label == intent for label, (_, intent) in zip(said, inside + outside)])
    right[len(inside):] = False
    bins = numpy.minimum((scores * BINS).astype(int), BINS - 1)
    ece = sum(abs((scores[bins == b] - right[bins == b]).sum()) for b in range(BINS)) / len(queries)
    is_inside = numpy.arange(len(queries)) < len(inside)
    auroc = roc_auc_score(is_inside, scores) if outside else float("nan")
    times = []
    for text in queries[:: max(1, len(queries) // TIMED)]:
        begun = time.perf_counter()
        plain.predict([text])
        times.append((time.perf_counter() - begun) * 1e6)
    accuracy = 100 * right[: len(inside)].mean()
    return accuracy, auroc, ece, numpy.percentile(times, 50), numpy.percentile(times, 99), training


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        data = json.load(file)
    heads = ("accuracy", "AUROC", "ECE", "p50 us", "p99 us", "training")
    print("{:<34} {:>9} {:>7} {:>7} {:>9} {:>9} {:>10}".format("scikit-learn, TF-IDF + LinearSVC", *heads))
    for name, shots, seeds in (("5 utterances", 5, SEEDS), ("10 utterances", 10, SEEDS), ("all", None, 1)):
        worth = numpy.mean([measure(data, shots, seed) for seed in range(seeds)], axis=0)
        draws = f"{name}, {seeds} draw{'' if seeds == 1 else 's'}"
        print("{:<34} {:>7.1f} % {:>7.4f} {:>7.4f} {:>9.1f} {:>9.1f} {:>8.1f} s".format(draws, *worth), flush=True)


if __name__ == "__main__":
    main()
