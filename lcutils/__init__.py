"""Neural collapse in language models: data, training, class statistics, measurements, analysis."""
