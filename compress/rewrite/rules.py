"""All rules by name, in the order in which they are listed."""

from compress.rewrite.rule import Rule
from compress.rewrite.rules_activation import ACTIVATION_RULES
from compress.rewrite.rules_attention import ATTENTION_RULES
from compress.rewrite.rules_block import BLOCK_RULES
from compress.rewrite.rules_convolution import CONVOLUTION_RULES

RULES: dict[str, Rule] = {
    rule.name: rule for rule in (*CONVOLUTION_RULES, *ACTIVATION_RULES, *ATTENTION_RULES, *BLOCK_RULES)
}

__all__ = ["RULES", "Rule"]
