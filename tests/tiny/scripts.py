"""Messages in several scripts, made up: two topics, a few of each."""

from __future__ import annotations

PARTED = {  # words are parted by spaces
    "Latin": ["Wo bleibt mein Päckchen denn nur", "Ich möchte die Größe gern zurückgeben"],
    "Cyrillic": ["Где же моя посылка сейчас", "Хочу вернуть деньги за платье"],
    "Arabic": ["أين طردي الآن من فضلكم", "أريد استرداد ثمن الفستان"],
    "Hebrew": ["איפה החבילה שלי עכשיו", "אני רוצה החזר על השמלה"],
    "Devanagari": ["मेरा पार्सल अभी कहाँ है", "मुझे इस पोशाक का पैसा वापस चाहिए"],
    "Hangul": ["제 택배는 지금 어디에 있나요", "원피스를 환불 받고 싶어요"],
}
UNPARTED = {  # characters stand in a row
    "Han": ["我的包裹现在到哪里了", "这条裙子我想申请退款"],
    "Kana": ["荷物はいまどこですか", "ワンピースを返品したいです"],
    "Thai": ["พัสดุของฉันอยู่ที่ไหน", "อยากคืนเงินค่าชุดเดรส"],
    "Khmer": ["កញ្ចប់របស់ខ្ញុំនៅឯណា", "ខ្ញុំចង់បានប្រាក់វិញ"],
    "Burmese": ["ကျွန်တော့်ပါဆယ်ဘယ်မှာလဲ", "ငွေပြန်အမ်းချင်ပါတယ်"],
}
EVERY = {**PARTED, **UNPARTED}
