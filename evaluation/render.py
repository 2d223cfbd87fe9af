"""The evaluation's results as Markdown tables and plots."""


def per_cent(part, digits=1):
    return "" if part is None else f"{100 * part:.{digits}f} %"


def text(by_table):
    parts = ["All figures are SIMULATED. Errors are against Shapley of the measured game.\n"]
    parts += [_scores(result) for result in (*by_table.get("loads", []), *by_table.get("servegen", []))]
    parts += [_tenants(result) for result in by_table.get("servegen", [])]
    if by_table.get("misspecification"):
        parts.append(_misspecification(by_table["misspecification"]))
    return "\n".join(parts)


def _head(result):
    return (
        f"### {result['name']}\n\n{result['requests']:,} requests, {result['steps']:,} steps, mean batch "
        f"{result['mean_batch']:.1f}; {result['times']}. Fit: {result['fit']['method']}, step error "
        f"{per_cent(result['fit']['error'])}. Standard error of Shapley ({result['orders_per_step']} orders a step): "
        f"{per_cent(result['shapley_standard_error_mean'], 2)} of a request on average, at most "
        f"{per_cent(result['shapley_standard_error_worst_tenant'], 2)} of a tenant.\n"
    )


def _scores(result):
    lines = [
        _head(result),
        "| rule | mean request error | 95th percentile | on the wrong request | worst tenant | on prompts |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for s in result["scores"]:
        errors = (per_cent(s[name]) for name in ("mean_error", "p95_error", "misplaced", "worst_tenant", "input_share"))
        lines.append(f"| {s['rule']} | {' | '.join(errors)} |")
    return "\n".join(lines) + "\n"


def _tenants(result):
    lines = [
        "| tenant | requests | Shapley | costtrace | difference | standard error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, t in result["tenants"].items():
        off = t["costtrace_s"] / t["shapley_s"] - 1
        lines.append(
            f"| {name} | {t['requests']:,} | {t['shapley_s']:.2f} s | {t['costtrace_s']:.2f} s | {100 * off:+.2f} % | "
            f"{per_cent(t['standard_error'], 2)} |"
        )
    return "\n".join(lines) + "\n"


def _misspecification(results):
    lines = [
        "### Misspecification\n",
        "| truth | step error of the fit | mean request error | worst tenant | mean, affine | worst tenant, affine |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        auto, affine = (
            next(s for s in result["scores"] if s["rule"] == f"costtrace: {method}") for method in ("auto", "affine")
        )
        errors = (result["fit"]["error"], *(s[name] for s in (auto, affine) for name in ("mean_error", "worst_tenant")))
        lines.append(f"| {result['name']} | {' | '.join(map(per_cent, errors))} |")
    return "\n".join(lines) + "\n"


def plots(by_table, out):
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "costtrace", "text.parse_math": False})
    import matplotlib.pyplot as plt

    for key, title in (("mean_error", "mean request error"), ("worst_tenant", "worst tenant's error")):
        results = [*by_table.get("loads", []), *by_table.get("servegen", [])]
        figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
        names = [s["rule"] for s in results[0]["scores"]]
        width = 0.8 / len(results)
        for place, result in enumerate(results):
            heights = [100 * s[key] for s in result["scores"]]
            label = f"{result['name']} (batch {result['mean_batch']:.0f})"
            axes.barh([y + place * width for y in range(len(names))], heights, width, label=label)
        axes.set_yticks([y + 0.4 - width / 2 for y in range(len(names))], names)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel(f"{title} against Shapley of the measured game, % (SIMULATED)")
        axes.legend(loc="lower right")
        path = out / f"{key}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        yield path
