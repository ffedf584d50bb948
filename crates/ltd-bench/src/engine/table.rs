//! The report as text.

use std::fmt::Write;

use ltd_engine::measure::ProductKernel;

use super::launches::Launches;
use super::operations::OperationTimes;
use super::report::{Cycle, DraftLevel, ProductTimes, Report, Verify};

const GIB: f64 = (1_u64 << 30) as f64;

/// Tables in Markdown.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    write_all(report, &mut text).expect("invariant: text can grow");
    text
}

fn write_all(report: &Report, out: &mut String) -> std::fmt::Result {
    let Report { header, limits, autoregressive, memory, .. } = report;
    writeln!(out, "\n{}, {}, {limits}", header.device_text(), header.dtype_choice)?;
    writeln!(out, "target: {}; draft: {}\n", header.target, header.draft)?;

    let [low, high] = autoregressive.tokens_per_second_quartiles;
    writeln!(
        out,
        "autoregressive: {:.1} tokens/s ({low:.1} - {high:.1}), {:.2} ms, floor {:.2} ms ({:.0} %)\n",
        autoregressive.tokens_per_second,
        autoregressive.ms,
        autoregressive.floor_ms,
        100.0 * autoregressive.share_of_bandwidth
    )?;

    writeln!(
        out,
        "| forward over V tokens | ms (quartiles) | products | ratio | products: engine's, oneDNN's, LibTorch's | floor |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
    for Verify { tokens, ms, ms_quartiles, products, ratio, floor_ms } in &report.verify {
        let name = format!("V = {tokens}");
        forward(out, &name, *ms, *ms_quartiles, products, *ratio, *floor_ms)?;
    }
    for DraftLevel { depth, beam_width, ms, ms_quartiles, products, ratio, floor_ms } in &report.draft_level {
        let name = format!("draft level {depth}, W = {beam_width}");
        forward(out, &name, *ms, *ms_quartiles, products, *ratio, *floor_ms)?;
    }

    if let Some(forwards) = &report.operations {
        operations(out, forwards)?;
    }
    if let Some(Launches { step, root_expansion, level, verification }) = &report.launches {
        let counted = [("step", step), ("root expansion", root_expansion), ("level", level)];
        let kernels = |(phase, kernels): (&str, &Option<u64>)| {
            kernels.map_or_else(|| format!("{phase} unknown"), |kernels| format!("{phase} {kernels}"))
        };
        let all = counted.into_iter().chain([("verification", verification)]).map(kernels);
        writeln!(out, "\nkernels: {}", all.collect::<Vec<_>>().join(", "))?;
    }

    writeln!(
        out,
        "\n| cycle: depth, size | ms (quartiles) | outside forwards | floor | tokens/s | acceptance |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
    for cycle in &report.cycles {
        let Cycle { depth, size, ms, ms_quartiles: [low, high], floor_ms, .. } = cycle;
        writeln!(
            out,
            "| {depth}, {size} | {ms:.2} ({low:.2} - {high:.2}) | {:.2} ms, {:.1} % | {floor_ms:.2} | {:.1} | {:.2} |",
            cycle.outside_forwards_ms,
            100.0 * cycle.outside_forwards_share,
            cycle.tokens_per_second,
            cycle.acceptance_length
        )?;
    }

    let gib = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64 / GIB);
    writeln!(
        out,
        "\nmemory: weights {:.2} GiB, caches {:.2} GiB; resident {:.2} GiB after loading, {:.2} after the cycles, of which \
         {:.2} are no pages of files ({:.2} of weights and caches; {:.2} without what the libraries take at the start); \
         {} cycles added {:.1} MiB",
        memory.weight_bytes as f64 / GIB,
        memory.cache_bytes as f64 / GIB,
        gib(memory.after_load.resident_bytes),
        gib(memory.after_cycles.resident_bytes),
        gib(memory.after_cycles.anonymous_bytes),
        memory.ratio,
        memory.ratio_above_start,
        memory.cycles,
        memory.growth_bytes as f64 / 1024.0 / 1024.0
    )
}

fn operations(out: &mut String, forwards: &[OperationTimes]) -> std::fmt::Result {
    writeln!(
        out,
        "\n| forward over V tokens | attention (products) | MLP (products) | logits (products) | rest |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    for times in forwards {
        let part = |ms: f64, products_ms: f64| format!("{ms:.2} ({products_ms:.2})");
        writeln!(
            out,
            "| V = {} | {} | {} | {} | {:.2} |",
            times.tokens,
            part(times.attention_ms, times.attention_products_ms),
            part(times.mlp_ms, times.mlp_products_ms),
            part(times.logits_ms, times.logits_products_ms),
            times.rest_ms
        )?;
    }
    Ok(())
}

fn forward(
    out: &mut String,
    name: &str,
    ms: f64,
    [low, high]: [f64; 2],
    products: &ProductTimes,
    ratio: f64,
    floor_ms: f64,
) -> std::fmt::Result {
    let ProductTimes { products_ms, kernels_ms, .. } = products;
    let kernel = |kernel| kernels_ms.get(&kernel).map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"));
    let [engine, onednn, libtorch] =
        [ProductKernel::Engine, ProductKernel::OneDnn, ProductKernel::LibTorch].map(kernel);
    writeln!(
        out,
        "| {name} | {ms:.2} ({low:.2} - {high:.2}) | {products_ms:.2} | {ratio:.2} | \
         {engine}, {onednn}, {libtorch} | {floor_ms:.2} |"
    )
}
