"""Sentences of chest radiograph reports, written for this project, with what a reader takes from each:
1 present, 0 absent, -1 uncertain, nothing where not spoken of.

HELD_OUT was written before the labeller had a line of code: its first draft read 27 of 30 as wanted, and
28 when it was mended for SENTENCES; then one of the two misses was mended."""

SHORT = dict(
    ecm='Enlarged Cardiomediastinum', cm='Cardiomegaly', op='Lung Opacity', les='Lung Lesion', edema='Edema',
    cons='Consolidation', pna='Pneumonia', atel='Atelectasis', ptx='Pneumothorax', eff='Pleural Effusion',
    pl='Pleural Other', fx='Fracture', dev='Support Devices')

HELD_OUT = '''
Interval removal of the right chest tube with no evidence of residual pneumothorax. | dev 0, ptx 0
The previously described left retrocardiac opacity has cleared. | op 0
Blurring of the pulmonary vessels is in keeping with moderate interstitial edema. | edema 1
There is persistent elevation of the right hemidiaphragm with adjacent compressive atelectasis. | atel 1
The heart is top normal in size and the aorta is unfolded. | cm 0
Layering effusions have grown on both sides, right greater than left. | eff 1
No focal consolidation worrisome for pneumonia, no effusion and no pneumothorax. | cons 0, pna 0, eff 0, ptx 0
A dual-lead pacemaker projects over the left chest, leads intact. | dev 1
Faint nodular density overlying the anterior fourth rib, which could be a nipple shadow. | les 1
Superimposed infection in the lung bases is difficult to exclude. | pna -1
The right apical pneumothorax is smaller, now measuring 8 mm. | ptx 1
Healing fractures of the left sixth and seventh ribs are unchanged. | fx 1
No new parenchymal opacities, and the known small effusions are stable. | op 0, eff 1
Aside from minimal linear atelectasis the lungs are clear. | atel 1, op 0, les 0, edema 0, cons 0, pna 0
Prominence of the right paratracheal stripe widens the mediastinum. | ecm 1
Lungs hyperinflated but free of consolidation or mass. | cons 0, les 0
Neither pneumothorax nor pleural effusion is present. | ptx 0, eff 0
Cardiac size cannot be assessed because of the large left effusion. | eff 1
Biapical pleural thickening is symmetric and probably scarring. | pl 1
Right upper lobe mass is again noted, without interval growth. | les 1
Pulmonary vascular congestion has resolved since yesterday. | edema 0
The patchy infiltrate at the left base likely reflects aspiration pneumonia rather than atelectasis. | op 1, pna -1, atel 0
Endotracheal tube has been withdrawn and now sits 4 cm above the carina. | dev 1
No displaced rib fracture is identified, although subtle nondisplaced injury is not excluded. | fx 0
Heart size, mediastinal contours and pulmonary vasculature are all normal. | cm 0, ecm 0, edema 0
Questionable trace left pleural effusion on the lateral view. | eff -1
Clear lungs, normal heart, no bony injury. | op 0, les 0, edema 0, cons 0, pna 0, atel 0, cm 0
Increased retrocardiac density may be due to collapse, but consolidation is not ruled out. | op 1, atel -1, cons -1
Moderate cardiomegaly is unchanged, and there is no overt pulmonary edema. | cm 1, edema 0
The costophrenic sulci are sharp. | eff 0
'''

SENTENCES = '''
The heart is normal in size. | cm 0
Heart size is normal. | cm 0
Normal heart size and mediastinal contours. | cm 0, ecm 0
Heart size and mediastinal contours are within normal limits. | cm 0, ecm 0
The cardiomediastinal silhouette is within normal limits. | cm 0, ecm 0
The cardiac silhouette is not enlarged. | cm 0
No cardiomegaly. | cm 0
The heart is mildly enlarged. | cm 1
Stable cardiomegaly. | cm 1
Mild enlargement of the cardiac silhouette. | cm 1
No enlargement of the cardiac silhouette. | cm 0
Borderline cardiomegaly. | cm -1
Heart size is borderline. | cm -1
The heart size is borderline enlarged. | cm -1
Heart size is at the upper limits of normal. | cm 0
Possible mild cardiomegaly. | cm -1
The heart is enlarged, the lungs are clear. | cm 1, op 0, les 0, edema 0, cons 0, pna 0, atel 0
Heart enlarged, lungs clear. | cm 1, op 0, les 0, edema 0, cons 0, pna 0, atel 0
The heart, lungs and mediastinum are normal. | cm 0, ecm 0, op 0, les 0, edema 0, cons 0, pna 0, atel 0
Lungs: clear. | op 0, les 0, edema 0, cons 0, pna 0, atel 0
The lungs are clear. | op 0, les 0, edema 0, cons 0, pna 0, atel 0
The lungs are clear bilaterally without effusion or pneumothorax. | op 0, les 0, edema 0, cons 0, pna 0, atel 0, eff 0, ptx 0
The lungs are clear of focal airspace disease, pneumothorax, or pleural effusion. | op 0, ptx 0, eff 0
The right lung is clear. |
Widened mediastinum. | ecm 1
The mediastinum is not widened. | ecm 0
Mediastinal contour is prominent. | ecm 1
Enlarged cardiomediastinal silhouette. | cm 1, ecm 1
No acute cardiopulmonary abnormality. |
Normal chest radiograph. | ecm 0, cm 0, op 0, les 0, edema 0, cons 0, pna 0, atel 0, ptx 0, eff 0, pl 0, fx 0
No effusion, pneumothorax or edema. | eff 0, ptx 0, edema 0
No pleural effusion or pneumothorax is seen. | eff 0, ptx 0
There is no evidence of pneumonia, effusion, or edema. | pna 0, eff 0, edema 0
There is no pneumothorax but there is a small left effusion. | ptx 0, eff 1
No pneumothorax, small left effusion. | ptx 0, eff 1
No focal consolidation, large pleural effusion, or pneumothorax. | cons 0, eff 0, ptx 0
Small left effusion without pneumothorax. | eff 1, ptx 0
Small left effusion, no pneumothorax. | eff 1, ptx 0
Negative for pneumothorax. | ptx 0
Lungs are free of infiltrate. | op 0
Absence of pleural effusion. | eff 0
Pleural effusion is absent. | eff 0
Pneumothorax is not seen. | ptx 0
Effusion, pneumothorax and edema are not identified. | eff 0, ptx 0, edema 0
A pneumothorax is not clearly identified. | ptx 0
The left effusion has resolved. | eff 0
Resolved left effusion. | eff 0
Interval resolution of pulmonary edema. | edema 0
The pneumothorax is no longer seen. | ptx 0
There is no longer a pneumothorax. | ptx 0
Pulmonary edema has resolved with residual atelectasis. | edema 0, atel 1
No change in the left pleural effusion. | eff 1
No significant interval change in bibasilar atelectasis. | atel 1
No significant change in cardiomegaly or in the effusion. | cm 1, eff 1
Pneumothorax has been excluded. | ptx 0
Pneumonia cannot be excluded. | pna -1
Atelectasis, pneumonia cannot be excluded. | atel 1, pna -1
Small effusion cannot be ruled out. | eff -1
We cannot exclude a small pneumothorax. | ptx -1
Possible small left effusion. | eff -1
Questionable nodule in the right apex. | les -1
Left basilar opacity may represent atelectasis or pneumonia. | op 1, atel -1, pna -1
Right basilar opacity, atelectasis versus pneumonia. | op 1, atel -1, pna -1
Atelectasis vs. infiltrate at the left base. | atel -1, op -1
Bibasilar atelectasis or scarring. | atel -1, op -1
Left basilar airspace disease/atelectasis. | op -1, atel -1
Retrocardiac density, likely atelectasis. | op 1, atel -1
Findings suggest mild interstitial edema. | edema -1
Findings concerning for pneumonia. | pna -1
No findings suspicious for pneumonia. | pna 0
No evidence to suggest heart failure. | edema 0
Opacity consistent with pneumonia. | op 1, pna 1
Consolidation compatible with pneumonia. | cons 1, pna 1
Linear opacity is atelectasis rather than pneumonia. | op 1, atel 1, pna 0
A small effusion may be present. | eff -1
Pneumonia is unlikely. | pna -1
Pneumonia is considered less likely. | pna -1
An effusion is suspected. | eff -1
Effusions are not excluded. | eff -1
Blunting of the left costophrenic angle. | eff -1
The costophrenic angles are sharp. | eff 0
Blunting of the costophrenic angle may represent pleural thickening. | eff -1, pl -1
No blunting of the costophrenic angles. | eff 0
Bilateral pleural effusions with bibasilar atelectasis. | eff 1, atel 1
Small right and moderate left pleural effusions. | eff 1
Pleural fluid has increased. | eff 1
Trace pleural fluid in the fissure. | eff 1
No pericardial effusion. |
Apical pleural thickening. | pl 1
Calcified pleural plaques. | pl 1
Right middle lobe pneumonia. | pna 1
Patchy infiltrates in both lungs. | op 1
Left lower lobe collapse. | atel 1
Atelectatic changes at the bases. | atel 1
No lobar collapse. | atel 0
Vertebral body collapse. |
Calcified granuloma in the left upper lobe. |
Nodular opacity in the right upper lobe. | les 1
Multiple pulmonary nodules, suspicious for metastases. | les 1
No suspicious pulmonary nodules or masses. | les 0
Stable 8 mm nodule. | les 1
Mild pulmonary vascular congestion. | edema 1
Pulmonary vasculature is normal. | edema 0
Pulmonary vascularity is within normal limits. | edema 0
Heart size and pulmonary vascularity appear within normal limits. | cm 0, edema 0
No acute bony abnormality. |
Bony structures are intact. | fx 0
No displaced rib fractures, pneumothorax, or pleural effusion identified. | fx 0, ptx 0, eff 0
Old healed rib fracture. | fx 1
Fracture of the left clavicle. | fx 1
Right internal jugular central line ends in the SVC. | dev 1
Left PICC has been removed. | dev 0
Median sternotomy wires are intact. | dev 1
The trachea is midline. |
Surgical clips in the upper abdomen. |
Endotracheal tube in standard position, no pneumothorax. | dev 1, ptx 0
Tip of the central line is not seen. | dev 1
no effusion. the heart is enlarged. | eff 0, cm 1
no pneumothorax and the heart is enlarged. | ptx 0, cm 1
the heart is enlarged and there is no effusion. | cm 1, eff 0
No pneumothorax. Small pneumothorax is seen on the left. | ptx 1
Small effusion. No effusion on the right. | eff 1
Possible effusion. No effusion on the right. | eff -1
History of pneumonia. |
History of congestive heart failure, no edema today. | edema 0
No consolidation is seen; however, mild edema persists. | cons 0, edema 1
Although no consolidation is seen, there is mild edema. | cons 0, edema 1
Pneumothorax: none. | ptx 0
Effusion: absent, heart: enlarged. | eff 0, cm 1
The aorta is enlarged. |
Tortuous aorta, heart size normal. | cm 0
Low lung volumes. |
Lung volumes are normal. |
Increased interstitial markings. | op 1
Interstitial opacities, possibly edema. | op 1, edema -1
Consolidation in the left lower lobe, with a small effusion. | cons 1, eff 1
Mild cardiomegaly is present. | cm 1
No effusion, pneumothorax or edema is seen. | eff 0, ptx 0, edema 0
Heart size is upper limits of normal or mildly enlarged. | cm -1
Small bilateral effusions suspected. | eff -1
Question small right pleural effusion. | eff -1
Differential considerations include atelectasis. | atel -1
Opacity favored to be atelectasis. | op 1, atel -1
Marked interval increase in heart size. | cm 1
The heart is large. | cm 1
The heart is obscured by a large effusion. | eff 1
Right upper lobe volume loss. |
'''


def read(lines):
    "[(sentence, {finding: value})]"
    rows = []
    for line in lines.strip().split('\n'):
        sentence, _, said = line.rpartition('|')
        values = [o.split() for o in said.split(',') if o.strip()]
        rows.append((sentence.strip(), {SHORT[short]: int(value) for short,value in values}))
    return rows
