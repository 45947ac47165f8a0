"""Image classification: datasets, and a stock timm VisionTransformer that learns their classes."""
