"""What a training step would take at an H100's peak of arithmetic and of memory: computed from shapes, nothing is run.

    python benchmarks/roofline.py

A step is taken apart into the operations of `saes/topk_family.py`. Each takes as long as its arithmetic at the peak or
its memory traffic at the peak, whichever is longer, and one follows another. Tensors are read and written whole, once
for each operation that does, rows that are gathered once for each active latent. So what a cache holds makes it too
long, and launches, sorting and what no kernel reaches of a peak too short.

    active      the products and sums with the k active latents of each activation, and their gradients
    auxiliary   the same with `aux_k` dead latents: with static shapes in every step, whether latents are dead or not
    dense       what `active` does, by products of whole matrices (`sae.reference=true`)
    rest        selection, projections, Adam: the same in both

Axes: B activations, D `d_in`, F `d_sae`, A active latents of the whole batch.
"""

from dataclasses import dataclass

MEMORY = 3.35e12  # bytes/s
PEAKS = {"highest": 67e12, "high (TF32)": 400e12}  # operations/s of an H100 SXM, by trainer.matmul_precision
SPARSE_PEAK = PEAKS["highest"]  # sums of rows use no tensor cores
FLOAT = 4  # bytes
PASSES_OF_ADAM = 7  # reads a parameter, its gradient and two moments; writes all but the gradient


@dataclass(frozen=True)
class Sizes:
    d_in: int
    d_sae: int
    k: int
    aux_k: int
    batch: int = 2048
    measured: str = ""

    @property
    def weights(self) -> float:
        """Bytes of the encoder's, or of the decoder's."""
        return FLOAT * self.d_sae * self.d_in

    @property
    def latents(self) -> float:
        """Bytes of all latents of a batch."""
        return FLOAT * self.batch * self.d_sae

    @property
    def activations(self) -> float:
        """Bytes of a batch."""
        return FLOAT * self.batch * self.d_in


SIZES = [
    Sizes(256, 4096, 16, 128, measured="5.3"),
    Sizes(256, 16384, 16, 128, measured="5.1"),
    Sizes(768, 16384, 40, 384),
    Sizes(768, 65536, 40, 384),
    Sizes(2304, 16384, 40, 1152),
    Sizes(2304, 65536, 40, 1152),
]


def seconds(operations: float, moved: float, peak: float) -> float:
    return max(operations / peak, moved / MEMORY)


def product(sizes: Sizes, peak: float) -> float:
    """One matrix product of B x D x F: the encoder's, or any of the dense version."""
    moved = sizes.activations + sizes.weights + sizes.latents
    return seconds(2.0 * sizes.batch * sizes.d_in * sizes.d_sae, moved, peak)


def sparse(sizes: Sizes, k: int) -> float:
    """With `k` latents of each activation: decoded, their gradients, and those of decoder and encoder."""
    active = sizes.batch * k
    operations, rows = 2.0 * active * sizes.d_in, FLOAT * active * sizes.d_in
    decoded = seconds(operations, rows + sizes.activations, SPARSE_PEAK)
    of_latents = seconds(operations, rows + sizes.activations, SPARSE_PEAK)
    of_weights = seconds(operations, rows + sizes.weights, SPARSE_PEAK)
    return decoded + of_latents + 2 * of_weights


def dense(sizes: Sizes, peak: float) -> float:
    """Decoded, gradients of latents and of both weights; and five passes over the latents, to choose and to mask."""
    return 4 * product(sizes, peak) + 5 * sizes.latents / MEMORY


def rest(sizes: Sizes) -> float:
    """Pre-activations read to select; decoder rows projected, by gradient and by weight; Adam."""
    moved = sizes.latents + (5 + 3) * sizes.weights + PASSES_OF_ADAM * 2 * sizes.weights
    return moved / MEMORY


def fewest_for_dense(sizes: Sizes, peak: float) -> int:
    """The `k` from which the dense version would be the faster one."""
    return next(k for k in range(1, sizes.d_sae + 1) if sparse(sizes, k) > dense(sizes, peak))


def row(sizes: Sizes, precision: str) -> str:
    peak = PEAKS[precision]
    parts = [product(sizes, peak), sparse(sizes, sizes.k), sparse(sizes, sizes.aux_k), rest(sizes)]
    whole = sum(parts)
    cells = [f"{sizes.d_in:,} x {sizes.d_sae:,}, k {sizes.k}, aux_k {sizes.aux_k:,}", precision]
    measured = sizes.measured if precision == "highest" else ""
    cells += [f"{1000 * part:.2f}" for part in [*parts, whole, whole - parts[2], dense(sizes, peak)]]
    return f"| {' | '.join([*cells, f'{fewest_for_dense(sizes, peak):,}', measured])} |"


def main() -> None:
    heads = ["d_in x d_sae", "precision", "encoder product", "active", "auxiliary", "rest", "step"]
    heads += ["without auxiliary", "dense instead of active", "dense is faster from k", "measured"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for sizes in SIZES:
        for precision in PEAKS:
            print(row(sizes, precision))


if __name__ == "__main__":
    main()
