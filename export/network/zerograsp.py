"""The whole network. Parameter names are those of the published state dict without its prefix `model.`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from ocnn.octree import Octree
from torch import Tensor, nn

from .backbone import build_image_encoder, check_image_size, sample_features
from .config import NetworkConfig
from .decoder import DecoderOutput, decoder_modules, run_decoder
from .encoder import encoder_modules, run_encoder
from .layers import ConvBnGelu
from .occlusion import MaskHead, OcclusionFunction, OcclusionGeometry, kernel_occlusion, sub_voxel_offsets
from .posterior import check_target, run_posterior, target_signal
from .preprocess import FrameInputs, build_input_octree, denormalise_points, node_centres, project
from .prior import latent_head, pool_objects, sample_latent
from .transformer import MultiObjectEncoder

Taps = dict[str, Tensor]


@dataclass(frozen=True)
class Encoding:
    """What the encoder makes of the visible points, before the latent vector. B objects over all frames."""

    octree: Octree
    """Input octree, one batch item per object."""
    features: dict[int, Tensor]
    """[d]: (N_d, channels_at(d)) at min_lod .. max_lod."""
    pooled: Tensor
    """(B, C) mean coarsest feature per object."""
    mean: Tensor
    """(B, latent) of the prior."""
    logvar: Tensor
    """(B, latent) of the prior."""
    frame_sizes: list[int]
    """Coarsest nodes of every frame."""


@dataclass(frozen=True)
class Prediction(DecoderOutput):
    """The network's output at inference."""

    encoding: Encoding
    """With the input octree and the prior's mean and log-variance."""


@dataclass(frozen=True)
class TrainingPrediction(DecoderOutput):
    """The network's output along a target octree, row by row beside what it should have been.

    `split` is the target's; `signal` is the prediction at the target's non-empty finest nodes.
    """

    target_signal: Tensor
    """(S, signal_channels)."""
    prior: tuple[Tensor, Tensor]
    """Mean and log-variance (B, latent)."""
    posterior: tuple[Tensor, Tensor] | None
    """Mean and log-variance (B, latent); None where the network has no posterior branch."""


class ZeroGrasp(nn.Module):
    """RGB-D frame with instance masks to an octree of surface points with normals and grasps.

    Forward takes one `FrameInputs` or a sequence of them; objects of all frames form one batch, in order, and
    attention does not cross frames. Masks, depth and points come from `prepare_frame`.
    """

    ofe_offset: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        c = config.coarse_channels
        self.backbone = build_image_encoder(config)
        if config.occlusion:
            # Strict loading needs these names; the kernel derives the same geometry from the configuration.
            self.register_buffer("ofe_offset", sub_voxel_offsets(config.occlusion_resolution))
            self.ofe = OcclusionGeometry()
            self.mask_head = MaskHead(config)
        self.conv1, self.encoder_blks, self.downsample = encoder_modules(
            config, config.input_channels, config.occlusion_out if config.occlusion else 0
        )
        self.prior_head = latent_head(c, config)
        self.conv2 = ConvBnGelu(c + config.latent, c)
        if config.multi_object:
            self.mae_encoder = MultiObjectEncoder(config)
        self.upsample, self.decoder_blks, self.predict = decoder_modules(config)
        if config.posterior:
            self.posterior_conv1, self.posterior_encoder_blks, self.posterior_downsample = encoder_modules(
                config, config.signal_channels
            )
            self.posterior_head = latent_head(2 * c, config)

    def point_features(self, frame: FrameInputs) -> list[Tensor]:
        """The image feature of every point, per object (N_i, image_channels) float32."""
        check_image_size(self.config, frame.image)
        features = self.backbone(frame.image[None])[0]
        sampled = []
        for points in frame.points:
            metric = denormalise_points(self.config, points, frame.z_min)
            sampled.append(sample_features(features, project(metric, frame.intrinsics)))
        return sampled

    def encode(
        self,
        frames: FrameInputs | Sequence[FrameInputs],
        occlusion: Tensor | OcclusionFunction = kernel_occlusion,
        taps: Taps | None = None,
    ) -> Encoding:
        """Image encoder, input octree, octree encoder, occlusion field, prior.

        Args:
            occlusion: flags (N, 2, r, r, r) of all coarsest nodes, or the function that computes a frame's.
            taps: receives intermediate tensors by the names of the reference vectors.
        """
        frames = _as_frames(frames)
        config = self.config
        features = [f for frame in frames for f in self.point_features(frame)]
        octree = build_input_octree(
            config, [p for frame in frames for p in frame.points], features, self.training
        )
        x = octree.get_input_feature("LF", nempty=False)
        frame_of_object = torch.repeat_interleave(torch.tensor([len(f.points) for f in frames]))
        frame_of_node = frame_of_object.to(x.device)[octree.batch_id(config.min_lod)]
        frame_sizes = torch.bincount(frame_of_node, minlength=len(frames)).tolist()
        if taps is not None:
            taps["point_features"] = torch.cat(features)
            taps[f"in/features{config.max_lod}"] = octree.features[config.max_lod]
            taps["in/input_feature"] = x

        def with_occlusion(coarse: Tensor) -> Tensor:
            flags = occlusion
            if not isinstance(flags, Tensor):
                flags = self._flags(frames, octree, frame_sizes, flags)
            expected = (coarse.shape[0], 2) + (config.occlusion_resolution,) * 3
            if tuple(flags.shape) != expected:
                raise ValueError(f"occlusion flags: expected shape {expected}, got {tuple(flags.shape)}")
            coarse = torch.cat((coarse, self.mask_head(flags.to(coarse))), dim=1)
            if taps is not None:
                taps["ofe/flags"] = flags
                taps["d4_before_blocks"] = coarse
            return coarse

        encoder = (self.conv1, self.encoder_blks, self.downsample)
        outputs = run_encoder(config, encoder, x, octree, with_occlusion if config.occlusion else None)
        pooled = pool_objects(outputs[config.min_lod], octree, config.min_lod)
        mean, logvar = self.prior_head(pooled).chunk(2, dim=1)
        if taps is not None:
            taps.update({"prior/pooled": pooled, "prior/pm": mean, "prior/lpv": logvar})
        return Encoding(octree, outputs, pooled, mean, logvar, frame_sizes)

    def _flags(
        self,
        frames: Sequence[FrameInputs],
        octree: Octree,
        frame_sizes: list[int],
        occlusion: OcclusionFunction,
    ) -> Tensor:
        """Occlusion flags of all coarsest nodes, (N, 2, r, r, r)."""
        depth = self.config.min_lod
        centres = node_centres(octree, depth).split(frame_sizes)
        objects = octree.batch_id(depth).split(frame_sizes)
        first = 0
        flags = []
        for frame, c, o in zip(frames, centres, objects, strict=True):
            metric = denormalise_points(self.config, c, frame.z_min)
            flags.append(
                occlusion(metric, o - first, frame, self.config.grid_size, self.config.occlusion_resolution)
            )
            first += len(frame.points)
        return torch.cat(flags)

    def fuse(self, encoding: Encoding, latent: Tensor) -> Tensor:
        """Latent vectors (B, latent) into the coarsest features, then multi-object encoder: tokens (N, C)."""
        depth, octree = self.config.min_lod, encoding.octree
        repeated = latent[octree.batch_id(depth)]
        x = self.conv2(torch.cat((encoding.features[depth], repeated), dim=1), octree, depth)
        if self.config.multi_object:
            x = self.mae_encoder(x, node_centres(octree, depth), encoding.frame_sizes)
        return x

    def forward(
        self,
        frames: FrameInputs | Sequence[FrameInputs],
        noise: Tensor | None = None,
        occlusion: Tensor | OcclusionFunction = kernel_occlusion,
        forced_splits: Mapping[int, Tensor] | None = None,
        taps: Taps | None = None,
    ) -> Prediction:
        """Inference.

        Args:
            noise: (B, latent) standard normal, to sample the latent vector; without it the prior's mean.
            occlusion: flags or the function that computes them, see `encode`.
            forced_splits: [d]: (N_d,) bool in place of the predicted occupancy.
            taps: receives every intermediate tensor by the names of the reference vectors.
        """
        with self._recording(taps):
            encoding = self.encode(frames, occlusion, taps)
            tokens = self.fuse(encoding, sample_latent(encoding.mean, encoding.logvar, noise))
            decoder = (self.upsample, self.decoder_blks, self.predict)
            out = run_decoder(
                self.config,
                decoder,
                tokens,
                encoding.features,
                encoding.octree,
                forced_splits=forced_splits,
                taps=taps,
            )
        return Prediction(out.octree, out.logits, out.split, out.signal, encoding)

    def forward_train(
        self,
        frames: FrameInputs | Sequence[FrameInputs],
        target: Octree,
        noise: Tensor | None = None,
        occlusion: Tensor | OcclusionFunction = kernel_occlusion,
        from_prior: Tensor | None = None,
    ) -> TrainingPrediction:
        """Teacher-forced pass: the latent vector from the posterior, the decoder along the target octree.

        In training mode the heads' BatchNorm needs two objects or more in the batch.

        Args:
            target: of all objects in the order of the frames, see `build_target_octree`.
            noise: (B, latent) standard normal; without it the posterior's mean.
            from_prior: (B,) bool, objects that are decoded from the prior's mean, as at inference. With all of them, a
                network without posterior branch can be trained, or teach.
        """
        encoding = self.encode(frames, occlusion)
        check_target(self.config, target, encoding.octree.batch_size)
        latent, posterior = encoding.mean, None
        if self.config.posterior or from_prior is None or not from_prior.all():
            posterior = self.encode_target(target, encoding.pooled)
            latent = sample_latent(*posterior, noise)
            if from_prior is not None:
                latent = torch.where(from_prior[:, None], encoding.mean, latent)
        tokens = self.fuse(encoding, latent)
        decoder = (self.upsample, self.decoder_blks, self.predict)
        out = run_decoder(self.config, decoder, tokens, encoding.features, encoding.octree, target=target)
        return TrainingPrediction(
            out.octree,
            out.logits,
            out.split,
            out.signal,
            target_signal(target),
            (encoding.mean, encoding.logvar),
            posterior,
        )

    def encode_target(self, target: Octree, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log-variance (B, latent), from target and pooled input feature (B, C)."""
        if not self.config.posterior:
            raise ValueError(
                "this network has no posterior branch (config.posterior is false): it cannot be trained"
            )
        modules = (self.posterior_conv1, self.posterior_encoder_blks, self.posterior_downsample)
        return run_posterior(self.config, modules, self.posterior_head, target, pooled)

    @contextmanager
    def _recording(self, taps: Taps | None) -> Iterator[None]:
        """While active, the outputs of the stages' modules go to `taps` under their module names."""
        if taps is None:
            yield
            return
        stages = ("encoder_blks", "downsample", "upsample", "decoder_blks", "predict")
        names = ["backbone", "conv1", "conv2", "mask_head"]
        names += [f"{stage}.{i}" for stage in stages for i in range(len(getattr(self, stage)))]
        names += [f"mae_encoder.encoders.{i}" for i in range(self.config.transformer_layers)]
        modules = dict(self.named_modules())
        handles = []
        for name in names:
            if name in modules:

                def hook(_module: nn.Module, _args: tuple, output: Tensor, name: str = name) -> None:
                    taps[name] = output

                handles.append(modules[name].register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _as_frames(frames: FrameInputs | Sequence[FrameInputs]) -> Sequence[FrameInputs]:
    frames = (frames,) if isinstance(frames, FrameInputs) else frames
    if len(frames) == 0:
        raise ValueError("frames: expected at least one frame, got none")
    return frames
