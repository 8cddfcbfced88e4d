"""Classes with the names and attributes of timm's that a UniversalInvertedResidual of ConvFirst form is made of."""

from __future__ import annotations

from torch import nn


class BatchNormAct2d(nn.BatchNorm2d):
    def __init__(self, channels, act=None):
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = act or nn.Identity()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class ConvNormAct(nn.Module):
    def __init__(self, channels, out_channels, size=1, groups=1, act=None):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, padding=size // 2, groups=groups, bias=False)
        self.bn = BatchNormAct2d(out_channels, act)
        self.aa = nn.Identity()

    def forward(self, x):
        return self.aa(self.bn(self.conv(x)))


class UniversalInvertedResidual(nn.Module):
    def __init__(self, in_chs, out_chs, *, dw_kernel_size_start=3, group_size=8, exp_ratio=2.0, act_layer=nn.ReLU):
        super().__init__()
        hidden = int(in_chs * exp_ratio)
        self.has_skip = in_chs == out_chs
        self.dw_start = ConvNormAct(in_chs, in_chs, dw_kernel_size_start, in_chs // group_size)
        self.pw_exp = ConvNormAct(in_chs, hidden, act=act_layer())
        self.dw_mid, self.se = nn.Identity(), nn.Identity()
        self.pw_proj = ConvNormAct(hidden, out_chs)
        self.dw_end, self.layer_scale, self.drop_path = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        y = self.pw_proj(self.se(self.dw_mid(self.pw_exp(self.dw_start(x)))))
        y = self.layer_scale(self.dw_end(y))
        return self.drop_path(y) + x if self.has_skip else y
