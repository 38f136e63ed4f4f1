# SPDX-License-Identifier: Apache-2.0
"""Messages of ListModels, ListAccelerators and ListPrices."""

from dataclasses import asdict

from finetree_api.estimator.v1 import catalog_pb2
from finetree_api.types.v1 import model_pb2
from finetree_runtime.money import to_money

from finetree_estimator.catalog.accelerators import AcceleratorEntry
from finetree_estimator.catalog.models import ModelEntry
from finetree_estimator.catalog.price_book import PriceBook, Quote, Term
from finetree_estimator.intervals import Kind, Source
from finetree_estimator.messages.provenance import provenance_message
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.parameters import active_parameters, count
from finetree_estimator.spec.resolve import read_accelerator


def model_message(entry: ModelEntry) -> catalog_pb2.Model:
    """Write a model of the catalog."""
    return catalog_pb2.Model(
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


def accelerator_message(entry: AcceleratorEntry, book: PriceBook) -> catalog_pb2.Accelerator:
    """Write an accelerator of the catalog, with the median of its prices."""
    typical = book.typical(entry.name)
    return catalog_pb2.Accelerator(
        name=entry.name,
        display_name=entry.display_name,
        architecture=entry.architecture,
        compute_capability=entry.compute_capability,
        marketed_memory_gb=entry.marketed_gb,
        usable_bytes=entry.usable_bytes,
        bandwidth_bytes_per_second=entry.bandwidth,
        dense_flops_per_second=entry.dense_flops,
        native_bf16=entry.native_bf16,
        typical_hourly_price=to_money(typical, "USD") if typical is not None else None,
        provenance=provenance_message(Source(Kind.PUBLISHED, entry.source, date=entry.date)),
        native_int8=entry.native_int8,
        watts=entry.watts,
        unsupported=entry.unsupported,
        aliases=entry.aliases,
    )


def price_message(quote: Quote) -> catalog_pb2.Price:
    """Write a quote of the price book."""
    return catalog_pb2.Price(
        price_id=quote.price_id,
        accelerator=quote.accelerator,
        provider=quote.provider,
        region=quote.region,
        term=term_value(quote.term),
        hourly_price=to_money(quote.hourly, quote.currency),
        min_count=quote.min_count,
        provenance=provenance_message(Source(Kind.PUBLISHED, quote.source, quote.price_id, date=quote.date)),
    )


def term_value(term: Term) -> catalog_pb2.PriceTerm.ValueType:
    """Convert a term to the contract's enum value."""
    return catalog_pb2.PriceTerm.Value(f"PRICE_TERM_{term.name}")


def select_prices(book: PriceBook, request: catalog_pb2.ListPricesRequest) -> list[Quote]:
    """Filter quotes, sorted by accelerator and then by price. Raises NotFound (ACCELERATOR_NOT_FOUND)."""
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


def _shape(shape: Shape) -> model_pb2.ModelShape:
    """Write every dimension, so that the message used as `model.shape` gives an equal estimate."""
    return model_pb2.ModelShape(
        hidden_size=shape.hidden,
        layers=shape.layers,
        intermediate_size=shape.intermediate,
        attention_heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        tied_embeddings=shape.tied,
        gated_mlp=shape.gated,
        max_position_embeddings=shape.max_positions or None,
        sliding_window=shape.window or None,
        full_attention_layers=shape.full_attention_layers,
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
        dense_intermediate_size=shape.dense_intermediate or None,
        extra_parameters=shape.extra,
        family=shape.family,
        linear_attention=model_pb2.LinearAttention(**asdict(shape.linear)) if shape.linear else None,
        attention_gate=shape.attention_gate,
        vision_parameters=shape.vision,
        full_attention=model_pb2.FullAttention(**asdict(shape.full_attention)) if shape.full_attention else None,
        convolution=model_pb2.ShortConvolution(**asdict(shape.convolution)) if shape.convolution else None,
        latent_attention=model_pb2.LatentAttention(**asdict(shape.latent)) if shape.latent else None,
        kv_shared_layers=shape.kv_shared_layers,
        wide_shared_mlp=shape.wide_shared_mlp,
        layer_input_size=shape.layer_inputs,
    )
