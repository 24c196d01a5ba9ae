"""What the report's page says of duplicates."""

from typing import Any

from datamodules.corpus.reporting.charts import histogram
from datamodules.corpus.reporting.numbers import count, jaccard_bins, numbered, size_bins
from datamodules.corpus.reporting.texts import Budget, group, marked_differences, sample_block, unit

PAIRS_BUDGET, CLUSTERS_BUDGET = 80_000, 50_000  # bytes of HTML
CLUSTERS = 20


def duplicates_section(report: dict[str, Any]) -> str:
    """Histograms of cluster sizes and of Jaccard similarities, removed and kept side by side, the largest clusters."""
    duplicates = report.get("duplicates", {})
    parts = []
    if bins := size_bins(duplicates.get("cluster_sizes", {})):
        names = [(str(first) if first == last else f"{first:,}–{last:,}", number) for first, last, number in bins]
        clusters = sum(number for *_, number in bins)
        title = f"Clusters of documents that resemble each other, {count(clusters)} in all, by their size."
        scale = "clusters, on a logarithmic scale (each line is ten times the one below)"
        parts.append(histogram(title, names, "documents in the cluster", scale, logarithmic=True))
    pairs = duplicates.get("pairs", [])
    if found := jaccard_bins(pair["jaccard"] for pair in pairs):
        title = f"How similar removed and kept are, of the {numbered(pairs, 'pair')} in this report."
        names = [(f"{first:.3f}".rstrip("0"), number) for first, _, number in found]
        label = f"Jaccard similarity, bins of 0.025 named by their lower end, from {found[0][0]:.3g} to 1"
        parts.append(histogram(title, names, label, "pairs"))
    if blocks := Budget(PAIRS_BUDGET).within(map(_pair, pairs)):
        note = f"{len(blocks)} of {count(len(pairs))} pairs; words that differ are marked and underlined"
        summary = f'<summary>Pairs <span class="note">{note}</span></summary>'
        parts.append("<h3>Removed and kept, side by side</h3>")
        parts.append(f'<details class="group">{summary}{"".join(blocks)}</details>')
    largest, budget = [], Budget(CLUSTERS_BUDGET)
    for cluster in duplicates.get("largest", [])[:CLUSTERS]:
        samples = cluster.get("samples", [])
        blocks = budget.within(unit(sample_block(sample)) for sample in samples)
        title = f"{count(cluster['documents'])} documents"
        largest.append(group(title, f"{count(cluster['kept'])} kept", blocks, len(samples)))
    if largest:
        parts.append(f"<h3>The largest clusters</h3>{''.join(largest)}")
    return "".join(parts)


def _pair(pair: dict[str, Any]) -> str:
    removed, kept = marked_differences(pair["removed"], pair["kept"])
    return unit(
        f'<p><b>Jaccard {pair["jaccard"]:.3f}</b></p><div class="pair">'
        f"{sample_block(pair['removed'], removed, 'removed')}{sample_block(pair['kept'], kept, 'kept')}</div>"
    )
