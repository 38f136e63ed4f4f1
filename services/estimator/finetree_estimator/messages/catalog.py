# SPDX-License-Identifier: Apache-2.0
"""Messages of what the catalogue and the price book hold."""

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_estimator.catalog.accelerators import AcceleratorEntry
from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.catalog.models import ModelEntry
from finetree_estimator.catalog.parameters import active_parameters, count
from finetree_estimator.catalog.price_book import PriceBook, Quote, Term
from finetree_estimator.intervals import Kind, Source
from finetree_estimator.messages.provenance import provenance_message
from finetree_estimator.spec.resolve import read_accelerator


def model_message(entry: ModelEntry) -> pb.Model:
    """A model of the catalogue."""
    return pb.Model(
        name=entry.name,
        hub_id=entry.hub_id,
        family=entry.family,
        shape=_shape(entry.shape),
        parameters=count(entry.shape).total,
        active_parameters=active_parameters(entry.shape),
        license=entry.license,
        provenance=provenance_message(Source(Kind.PUBLISHED, entry.source, date=entry.date)),
        aliases=entry.aliases,
    )


def accelerator_message(entry: AcceleratorEntry, book: PriceBook) -> pb.Accelerator:
    """An accelerator of the catalogue, with the median of its prices."""
    return pb.Accelerator(
        name=entry.name,
        display_name=entry.display_name,
        architecture=entry.architecture,
        compute_capability=entry.compute_capability,
        marketed_memory_gb=entry.marketed_gb,
        usable_bytes=entry.usable_bytes,
        bandwidth_bytes_per_second=entry.bandwidth,
        dense_flops_per_second=entry.dense_flops,
        native_bf16=entry.native_bf16,
        typical_hourly_usd=book.typical(entry.name),
        provenance=provenance_message(Source(Kind.PUBLISHED, entry.source, date=entry.date)),
        native_int8=entry.native_int8,
        watts=entry.watts,
        unsupported=entry.unsupported,
        aliases=entry.aliases,
    )


def price_message(quote: Quote) -> pb.Price:
    """A quote of the price book."""
    return pb.Price(
        price_id=quote.price_id,
        accelerator=quote.accelerator,
        provider=quote.provider,
        region=quote.region,
        term=term_value(quote.term),
        hourly_price=quote.hourly,
        currency_code=quote.currency,
        min_count=quote.min_count,
        provenance=provenance_message(Source(Kind.PUBLISHED, quote.source, quote.price_id, date=quote.date)),
    )


def term_value(term: Term) -> pb.PriceTerm.ValueType:
    """How a price is committed to, as the contract has it."""
    return pb.PriceTerm.Value(f"PRICE_TERM_{term.name}")


def select_prices(book: PriceBook, request: pb.ListPricesRequest) -> list[Quote]:
    """The quotes that a request asks for, by accelerator and then by price. Raises NotFound (ACCELERATOR_NOT_FOUND)."""
    quotes = book.of(read_accelerator(request.accelerator).name) if request.accelerator else book.quotes
    provider = request.provider.lower()
    return sorted(
        (
            quote
            for quote in quotes
            if provider in ("", quote.provider.lower()) and request.term in (0, term_value(quote.term))
        ),
        key=lambda quote: (quote.accelerator, quote.currency, quote.hourly, quote.price_id),
    )


def _shape(shape: Shape) -> rs.ModelShape:
    """Everything that the shape counts, so that the message as `model.shape` gives the same estimate."""
    return rs.ModelShape(
        hidden_size=shape.hidden,
        layers=shape.layers,
        intermediate_size=shape.intermediate,
        attention_heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        tied_embeddings=shape.tied,
        gated_mlp=shape.gated,
        max_position_embeddings=shape.max_positions,
        experts=shape.experts,
        active_experts=shape.active_experts,
        attention_bias=shape.qkv_bias,
        attention_output_bias=shape.output_bias,
        mlp_bias=shape.mlp_bias,
        norms_per_layer=shape.norms_per_layer,
        norm_bias=shape.norm_bias,
        head_norms=shape.head_norms,
        lm_head_bias=shape.lm_head_bias,
        learned_positions=shape.learned_positions,
        shared_expert_size=shape.shared_expert,
        dense_layers=shape.dense_layers,
        dense_intermediate_size=shape.dense_intermediate,
        extra_parameters=shape.extra,
        family=shape.family,
    )
