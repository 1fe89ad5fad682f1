"""Chest radiograph reports in the layouts of a hospital's system, all made up: the text, and by hand
what are its findings and its impression, cleaned.

Findings without a heading are findings; one section for both is findings; a preliminary reading counts
only where nothing else describes the images; addenda, recommendations under a heading of their own and
notifications describe no image."""

STYLES = [
dict(
    style='final report centred, one space before every line, heading and text on one line',
    text='''                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___F with dyspnea on exertion  // edema?
 
 TECHNIQUE:  Chest PA and lateral
 
 COMPARISON:  ___
 
 FINDINGS: 
 
 The cardiac silhouette is moderately enlarged.  There is blunting of both
 costophrenic angles, more on the left.  No pneumothorax is seen.
 
 IMPRESSION: 
 
 Moderate cardiomegaly with small bilateral effusions.
''',
    findings=(
        'The cardiac silhouette is moderately enlarged. There is blunting of both costophrenic '
        'angles, more on the left. No pneumothorax is seen.'),
    impression='Moderate cardiomegaly with small bilateral effusions.'),

dict(
    style='reason for exam, findings and impression on the line of their heading',
    text=''' FINAL REPORT
 REASON FOR EXAM:  Fall from standing, rule out rib fracture.

 COMPARISON:  None.

 FINDINGS:  Lungs are well inflated and clear.  No displaced rib fracture is
 identified, although dedicated views would be more sensitive.

 IMPRESSION:  No acute intrathoracic injury.
''',
    findings=(
        'Lungs are well inflated and clear. No displaced rib fracture is identified, although '
        'dedicated views would be more sensitive.'),
    impression='No acute intrathoracic injury.'),

dict(
    style='text on the line after its heading',
    text='''EXAM:
CHEST SINGLE VIEW

CLINICAL HISTORY:
___ y/o M status post intubation

FINDINGS:
Endotracheal tube tip lies 4.2 cm above the carina.
Nasogastric tube courses below the diaphragm, its tip out of view.

IMPRESSION:
Standard position of support devices.
''',
    findings=(
        'Endotracheal tube tip lies 4.2 cm above the carina. Nasogastric tube courses below the '
        'diaphragm, its tip out of view.'),
    impression='Standard position of support devices.'),

dict(
    style='headings in title case',
    text='''Exam: Chest PA and lateral
Indication: Chronic cough
Comparison: None available
Findings: Hyperinflated lungs with flattened diaphragms. No consolidation.
Impression: Emphysema without superimposed pneumonia.
''',
    findings='Hyperinflated lungs with flattened diaphragms. No consolidation.',
    impression='Emphysema without superimposed pneumonia.'),

dict(
    style='headings in lower case',
    text='''history: fever for three days.

technique: portable upright radiograph.

findings: patchy opacity in the right middle lobe. heart size normal.

impression: right middle lobe pneumonia.
''',
    findings='patchy opacity in the right middle lobe. heart size normal.',
    impression='right middle lobe pneumonia.'),

dict(
    style='findings and impression in one section',
    text=''' FINAL REPORT
 INDICATION:  ___-year-old man after pacemaker implantation.

 COMPARISON:  Radiograph of ___.

 FINDINGS AND IMPRESSION:  New left pectoral pacemaker with leads ending in
 the right atrium and right ventricle.  No pneumothorax.  Stable mild
 cardiomegaly.
''',
    findings=(
        'New left pectoral pacemaker with leads ending in the right atrium and right ventricle. No '
        'pneumothorax. Stable mild cardiomegaly.'),
    impression=''),

dict(
    style='findings/impression with a slash',
    text=''' STUDY:  Portable chest radiograph.
 FINDINGS/IMPRESSION:

 1.  Right internal jugular line ends in the mid SVC.
 2.  No pneumothorax.
''',
    findings='1. Right internal jugular line ends in the mid SVC. 2. No pneumothorax.',
    impression=''),

dict(
    style='provisional findings impression before the final report',
    text='''PROVISIONAL FINDINGS IMPRESSION (PFI):  ___ ___ 4:07 PM
  Small right apical pneumothorax.
 ______________________________________________________________________________
                                 FINAL REPORT
 HISTORY:  Chest tube removed.

 FINDINGS:  The right chest tube has been removed.  A right apical pneumothorax
 measures 1.1 cm.

 IMPRESSION:  Small right apical pneumothorax after tube removal.
''',
    findings='The right chest tube has been removed. A right apical pneumothorax measures 1.1 cm.',
    impression='Small right apical pneumothorax after tube removal.'),

dict(
    style='wet read with a line of underscores before the final report',
    text='''WET READ: ___ ___ ___ 8:51 PM
  Low lung volumes.  No focal consolidation.
 ______________________________________________________________________________
                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old woman with fever.

 FINDINGS: 

 Low lung volumes crowd the bronchovascular markings.  No focal consolidation.

 IMPRESSION: 

 No evidence of pneumonia.
''',
    findings='Low lung volumes crowd the bronchovascular markings. No focal consolidation.',
    impression='No evidence of pneumonia.'),

dict(
    style='two wet reads, versions numbered',
    text='''WET READ VERSION #1 ___ ___ 10:05 PM
  Mild edema.
WET READ VERSION #2 ___ ___ 11:40 PM
  Mild edema, and a feeding tube in the right main bronchus, told to Dr. ___.
 ______________________________________________________________________________
                                 FINAL REPORT
 INDICATION:  Feeding tube placement.

 IMPRESSION:  Feeding tube in the right main bronchus, since withdrawn.
''',
    findings='',
    impression='Feeding tube in the right main bronchus, since withdrawn.'),

dict(
    style='a wet read is all there is',
    text='''WET READ: ___ ___ 3:15 AM
  Left lower lobe collapse.  No pneumothorax.
 ______________________________________________________________________________
                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  Hypoxia.
''',
    findings='Left lower lobe collapse. No pneumothorax.',
    impression=''),

dict(
    style='wet read, and the final description has no heading',
    text='''WET READ: ___ ___ 6:12 AM
  Clear lungs.
 ______________________________________________________________________________
                                 FINAL REPORT
 CHEST RADIOGRAPH

 HISTORY:  Syncope.

 The lungs are clear and the heart is normal in size.  Degenerative changes are
 seen along the thoracic spine.

 IMPRESSION:  No acute process.
''',
    findings=(
        'The lungs are clear and the heart is normal in size. Degenerative changes are seen along '
        'the thoracic spine.'),
    impression='No acute process.'),

dict(
    style='addendum before the report, on a line of its own',
    text='''                                 FINAL REPORT
 ADDENDUM 
 
 On further review there is a nodule at the right base.  Dr. ___ was paged at
 2:10 p.m.
 ______________________________________________________________________________
                                 FINAL REPORT
 INDICATION:  Weight loss.
 
 FINDINGS:  No consolidation or effusion.
 
 IMPRESSION:  No acute cardiopulmonary process.
''',
    findings='No consolidation or effusion.',
    impression='No acute cardiopulmonary process.'),

dict(
    style='addendum after the report, with a colon',
    text=''' FINDINGS:  Stable bibasilar atelectasis.

 IMPRESSION:  No change.

 ADDENDUM:  The clavicle fracture was reported on the shoulder series.

 It is not visible here.
''',
    findings='Stable bibasilar atelectasis.',
    impression='No change.'),

dict(
    style='addendum with its text on the same line and no colon',
    text='''ADDENDUM  The wrong side was dictated; the effusion is on the right.
______________________________________________________________________________
FINAL REPORT
HISTORY:  Pleuritic pain.
FINDINGS:  Small pleural effusion.
IMPRESSION:  Effusion.
''',
    findings='Small pleural effusion.',
    impression='Effusion.'),

dict(
    style='impression only',
    text=''' FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old man with ARDS  // interval change

 COMPARISON:  ___.

 IMPRESSION: 

 In comparison with the study of ___, diffuse bilateral opacifications have not
 changed.  Monitoring and support devices are in place.
''',
    findings='',
    impression=(
        'In comparison with the study of, diffuse bilateral opacifications have not changed. '
        'Monitoring and support devices are in place.')),

dict(
    style='findings only',
    text=''' FINAL REPORT
 INDICATION:  Line placement.

 FINDINGS:  A left PICC ends at the cavoatrial junction.  There is no
 pneumothorax.  The remainder of the examination is unchanged.
''',
    findings=(
        'A left PICC ends at the cavoatrial junction. There is no pneumothorax. The remainder of '
        'the examination is unchanged.'),
    impression=''),

dict(
    style='no heading at all',
    text=''' Frontal and lateral views of the chest were obtained.  The lungs are clear.
 There is no effusion.  No acute osseous abnormality.
''',
    findings=(
        'Frontal and lateral views of the chest were obtained. The lungs are clear. There is no '
        'effusion. No acute osseous abnormality.'),
    impression=''),

dict(
    style='no heading but final report',
    text='''                                 FINAL REPORT
 A single portable view shows a new opacity at the left base, compatible with
 aspiration.

 The right lung is clear.
''',
    findings=(
        'A single portable view shows a new opacity at the left base, compatible with aspiration. '
        'The right lung is clear.'),
    impression=''),

dict(
    style='chest, two views as heading of the description',
    text='''                                 FINAL REPORT
 INDICATION:  Cough and fever.

 COMPARISON:  ___.

 CHEST, TWO VIEWS:  The heart is normal in size.  The mediastinal contours are
 unremarkable.  There is a retrocardiac opacity.

 IMPRESSION:  Left lower lobe pneumonia.
''',
    findings=(
        'The heart is normal in size. The mediastinal contours are unremarkable. There is a '
        'retrocardiac opacity.'),
    impression='Left lower lobe pneumonia.'),

dict(
    style='PA and lateral chest radiograph as heading, its text after a blank line',
    text=''' HISTORY:  Positive PPD.

 PA AND LATERAL CHEST RADIOGRAPH:

 Calcified granuloma in the left upper lobe.  No cavitation or adenopathy.

 IMPRESSION:  No evidence of active tuberculosis.
''',
    findings='Calcified granuloma in the left upper lobe. No cavitation or adenopathy.',
    impression='No evidence of active tuberculosis.'),

dict(
    style='title with time and date, impression compares',
    text='''                                 FINAL REPORT
 AP CHEST, 5:30 A.M., ___

 HISTORY:  Cardiac surgery.

 IMPRESSION:  AP chest compared to ___:

 Mild pulmonary edema has improved.  Small left pleural effusion persists.  ET
 tube in standard placement.
''',
    findings='',
    impression=(
        'AP chest compared to: Mild pulmonary edema has improved. Small left pleural effusion '
        'persists. ET tube in standard placement.')),

dict(
    style='portable title with date, then the description',
    text='''                                 FINAL REPORT
 PORTABLE AP CHEST RADIOGRAPH, ___

 The patient is rotated.  Tracheostomy tube in place.  Left basal opacity is
 denser than before.

 IMPRESSION:  Worsening left basal atelectasis or pneumonia.
''',
    findings=(
        'The patient is rotated. Tracheostomy tube in place. Left basal opacity is denser than '
        'before.'),
    impression='Worsening left basal atelectasis or pneumonia.'),

dict(
    style='upright AP view of the chest as heading',
    text=''' INDICATION:  Altered mental status.

 UPRIGHT AP VIEW OF THE CHEST:  Lung volumes are low.  No definite focal
 consolidation.  Gas-filled loops of bowel in the upper abdomen.

 IMPRESSION:  Low lung volumes.
''',
    findings=(
        'Lung volumes are low. No definite focal consolidation. Gas-filled loops of bowel in the '
        'upper abdomen.'),
    impression='Low lung volumes.'),

dict(
    style='title directly under the history, without a blank line',
    text=''' HISTORY:  Shortness of breath.
 COMPARISON:  None.
 PA AND LATERAL VIEWS OF THE CHEST:  Clear lungs.  Normal heart.
 IMPRESSION:  Normal study.
''',
    findings='Clear lungs. Normal heart.',
    impression='Normal study.'),

dict(
    style='title in mixed case with a colon',
    text=''' Clinical information: Lung cancer screening declined.

 Portable AP chest radiograph: Right hilar prominence with a 2.5 x 3.1 cm mass.
 No effusion.

 Conclusion: Right hilar mass, CT advised.
''',
    findings='Right hilar prominence with a 2.5 x 3.1 cm mass. No effusion.',
    impression='Right hilar mass, CT advised.'),

dict(
    style='numbered impression',
    text=''' FINDINGS:  Nodular opacities in both upper lobes; the largest is 8 mm.

 IMPRESSION:

 1.  Bilateral upper lobe nodules.
 2.  Recommend chest CT within 3 months.
 3.  No pneumothorax.
''',
    findings='Nodular opacities in both upper lobes; the largest is 8 mm.',
    impression=(
        '1. Bilateral upper lobe nodules. 2. Recommend chest CT within 3 months. 3. No '
        'pneumothorax.')),

dict(
    style='recommendation and notification under headings of their own',
    text=''' FINDINGS: 

 A 14 mm nodule projects over the left fifth rib.

 IMPRESSION: 

 Left lung nodule.

 RECOMMENDATION(S):  Nonemergent chest CT.

 NOTIFICATION:  The findings were discussed with ___, M.D. by ___, M.D. on the
 telephone on ___ at 11:20 AM, 5 minutes after discovery.

 He will arrange the follow up.
''',
    findings='A 14 mm nodule projects over the left fifth rib.',
    impression='Left lung nodule.'),

dict(
    style='impression and recommendations in one heading',
    text=''' FINDINGS:  Elevated right hemidiaphragm.
 IMPRESSION AND RECOMMENDATIONS:  Elevated right hemidiaphragm, fluoroscopy may help.
''',
    findings='Elevated right hemidiaphragm.',
    impression='Elevated right hemidiaphragm, fluoroscopy may help.'),

dict(
    style='last paragraph of the findings concludes, without a heading',
    text=''' FINAL REPORT
 INDICATION:  Preoperative.

 FINDINGS:  The lungs are clear.  The aorta is tortuous.

 No acute disease.
''',
    findings='The lungs are clear. The aorta is tortuous. No acute disease.',
    impression=''),

dict(
    style='description and conclusion as paragraphs under the comparison',
    text=''' COMPARISON:  ___ and ___.

 Sternal wires are intact.  Mild interstitial edema has resolved.

 No pneumothorax.
''',
    findings='Sternal wires are intact. Mild interstitial edema has resolved. No pneumothorax.',
    impression=''),

dict(
    style='labels of structured findings in capitals, on one line',
    text=''' TECHNIQUE:  Two views.
 FINDINGS:  LUNGS: Clear.  HEART: Normal size.  BONES: Old left rib fractures.
 IMPRESSION:  No acute abnormality.
''',
    findings='LUNGS: Clear. HEART: Normal size. BONES: Old left rib fractures.',
    impression='No acute abnormality.'),

dict(
    style='labels of structured findings, a line each',
    text=''' FINDINGS:

 Lines and tubes: Right PICC with tip in the SVC.
 Lungs: Bibasilar atelectasis.
 Pleura: No effusion.
 Heart and mediastinum: Unchanged.
 Bones: Osteopenia.

 IMPRESSION:
 Bibasilar atelectasis.
''',
    findings=(
        'Lines and tubes: Right PICC with tip in the SVC. Lungs: Bibasilar atelectasis. Pleura: No '
        'effusion. Heart and mediastinum: Unchanged. Bones: Osteopenia.'),
    impression='Bibasilar atelectasis.'),

dict(
    style='structured description under the comparison, no findings heading',
    text=''' EXAM:  CHEST
 COMPARISON:  None.
 LUNGS:  Clear.
 PLEURA:  No effusion or pneumothorax.
 HEART:  Top normal.
 IMPRESSION:  Normal chest.
''',
    findings='LUNGS: Clear. PLEURA: No effusion or pneumothorax. HEART: Top normal.',
    impression='Normal chest.'),

dict(
    style='colons within sentences, one before a line break',
    text=''' FINDINGS:  There are two relevant findings: a left apical
 bulla and the following:
 a calcified node.  Tube position: 3 cm above the carina at 8:51 PM.

 IMPRESSION:  Two findings: bulla, node.
''',
    findings=(
        'There are two relevant findings: a left apical bulla and the following: a calcified node. '
        'Tube position: 3 cm above the carina at 8:51 PM.'),
    impression='Two findings: bulla, node.'),

dict(
    style='a broken sentence puts the name of a section at the start of a line',
    text=''' FINDINGS:  The opacity has a broad differential
 diagnosis: infection, hemorrhage or infarct.  Compared with the prior
 study: no change in the remaining
 findings: the heart is large.

 IMPRESSION:  New opacity.
''',
    findings=(
        'The opacity has a broad differential diagnosis: infection, hemorrhage or infarct. '
        'Compared with the prior study: no change in the remaining findings: the heart is large.'),
    impression='New opacity.'),

dict(
    style='sentences in capitals',
    text='''EXAM: CHEST 2 VIEWS
HISTORY: CHEST PAIN
FINDINGS: THE LUNGS ARE CLEAR. NO PLEURAL EFFUSION. FINDINGS ARE UNCHANGED.
IMPRESSION: NO ACUTE FINDINGS. NO CHANGE.
''',
    findings='THE LUNGS ARE CLEAR. NO PLEURAL EFFUSION. FINDINGS ARE UNCHANGED.',
    impression='NO ACUTE FINDINGS. NO CHANGE.'),

dict(
    style='all sections on one line',
    text=(
        'INDICATION: Asthma. COMPARISON: None. FINDINGS: Peribronchial cuffing. IMPRESSION: '
        'Reactive airways disease.'),
    findings='Peribronchial cuffing.',
    impression='Reactive airways disease.'),

dict(
    style='all sections on one line, title case',
    text=(
        'Indication: Trauma. Findings: No fracture. No pneumothorax. Impression: Normal radiograph.'),
    findings='No fracture. No pneumothorax.',
    impression='Normal radiograph.'),

dict(
    style='discussed with a doctor, initials and times',
    text=''' FINDINGS:  Free air beneath the right hemidiaphragm.

 IMPRESSION:  Pneumoperitoneum.  Findings were discussed with Dr. ___ at 9:00 a.m.
 on ___ by Dr. ___ over the phone.
''',
    findings='Free air beneath the right hemidiaphragm.',
    impression=(
        'Pneumoperitoneum. Findings were discussed with Dr. at 9:00 a.m. on by Dr. over the phone.')),

dict(
    style='Windows line ends',
    text=(
        'FINAL REPORT\r\n'
        ' HISTORY:  Sepsis.\r\n'
        ' \r\n'
        ' FINDINGS:  Diffuse patchy\r\n'
        ' opacities.\r\n'
        ' \r\n'
        ' IMPRESSION:\r\n'
        ' \r\n'
        ' Multifocal pneumonia.\r\n'),
    findings='Diffuse patchy opacities.',
    impression='Multifocal pneumonia.'),

dict(
    style='tabs',
    text=(
        'INDICATION:\tDyspnea.\n'
        '\n'
        '\tFINDINGS:\tThe right\n'
        '\themidiaphragm is elevated.\t\n'
        '\n'
        '\tIMPRESSION:\tNo edema.\n'),
    findings='The right hemidiaphragm is elevated.',
    impression='No edema.'),

dict(
    style='blank lines that hold blanks, lines that end in them',
    text=(
        ' COMPARISON:  None.   \n'
        '    \n'
        '   \n'
        ' The lungs are clear.   \n'
        '  No effusion.    \n'
        ' \t \n'
        ' IMPRESSION:   \n'
        '    \n'
        ' Normal.    '),
    findings='The lungs are clear. No effusion.',
    impression='Normal.'),

dict(
    style='non-breaking spaces',
    text=(
        '\xa0FINAL REPORT\n'
        '\xa0INDICATION:\xa0\xa0Cough.\n'
        '\xa0\n'
        '\xa0FINDINGS\xa0:\xa0Clear\xa0lungs.\n'
        '\xa0\n'
        '\xa0IMPRESSION:\xa0\xa0Normal.\n'),
    findings='Clear lungs.',
    impression='Normal.'),

dict(
    style='two examinations read together',
    text=''' EXAMINATION:  Chest radiograph, 2:15.
 FINDINGS:  Endotracheal tube at the carina.
 IMPRESSION:  Low tube.

 EXAMINATION:  Chest radiograph, 3:40.
 FINDINGS:  Endotracheal tube 4 cm above the carina.
 IMPRESSION:  Tube repositioned.
''',
    findings='Endotracheal tube at the carina. Endotracheal tube 4 cm above the carina.',
    impression='Low tube. Tube repositioned.'),

dict(
    style='empty findings before an impression',
    text=''' TECHNIQUE:  Portable AP.

 FINDINGS:

 IMPRESSION:

 Stable appearance of the chest.
''',
    findings='',
    impression='Stable appearance of the chest.'),

dict(
    style='empty sections of every kind',
    text=''' EXAMINATION:
 INDICATION:
 TECHNIQUE:
 COMPARISON:
 FINDINGS:  Unchanged left effusion.
 IMPRESSION:
''',
    findings='Unchanged left effusion.',
    impression=''),

dict(
    style='de-identification marks for whole fields',
    text=''' INDICATION:  ___
 COMPARISON:  ___
 FINDINGS:  Compared to ___, the ___ catheter is gone.  ___
 IMPRESSION:  ___.
''',
    findings='Compared to, the catheter is gone.',
    impression=''),

dict(
    style='comparison after the impression',
    text=''' FINDINGS:  Left chest tube in place.
 IMPRESSION:  No residual pneumothorax.
 COMPARISON:  Film of the same day.
''',
    findings='Left chest tube in place.',
    impression='No residual pneumothorax.'),

dict(
    style='impression before the findings',
    text=''' IMPRESSION:  Bilateral hilar adenopathy.

 INDICATION:  Uveitis.

 FINDINGS:  Lobulated hilar contours on both sides.  Lungs are clear.
''',
    findings='Lobulated hilar contours on both sides. Lungs are clear.',
    impression='Bilateral hilar adenopathy.'),

dict(
    style='comparison and findings share a heading',
    text=''' HISTORY:  CABG.

 COMPARISON AND FINDINGS:  Since ___, the mediastinal drains have been removed.
 No pneumothorax.

 IMPRESSION:  Expected postoperative appearance.
''',
    findings='Since, the mediastinal drains have been removed. No pneumothorax.',
    impression='Expected postoperative appearance.'),

dict(
    style='headings alone on a line without a colon',
    text='''FINAL REPORT

INDICATION

Dyspnea

FINDINGS

Large left pleural effusion with mediastinal shift.

IMPRESSION

Large effusion.
''',
    findings='Large left pleural effusion with mediastinal shift.',
    impression='Large effusion.'),

dict(
    style='electronic signature',
    text=''' FINDINGS:  No nodule.
 IMPRESSION:  Normal.

 Electronically signed by: ___, MD on ___ 4:15 PM
''',
    findings='No nodule.',
    impression='Normal.'),

dict(
    style='dictated by, approved by',
    text=''' PORTABLE CHEST:  Swan-Ganz catheter in the right pulmonary artery.

 IMPRESSION:  No pneumothorax.

 DICTATED BY:  ___
 APPROVED BY:  ___, M.D.
''',
    findings='Swan-Ganz catheter in the right pulmonary artery.',
    impression='No pneumothorax.'),

dict(
    style='underlying condition and reason, as in older systems',
    text='''UNDERLYING MEDICAL CONDITION:
  70 year old woman with lymphoma
REASON FOR THIS EXAMINATION:
  neutropenic fever, infiltrate?
______________________________________________________________________________
                                 FINAL REPORT
 PA AND LATERAL CHEST, ___

 Port-A-Cath in place.  Lungs are clear.

 IMPRESSION:  No infiltrate.
''',
    findings='Port-A-Cath in place. Lungs are clear.',
    impression='No infiltrate.'),

dict(
    style='technique paragraph and description without a heading',
    text=''' EXAMINATION:  Chest radiograph.

 TECHNIQUE:  Frontal and lateral views of the chest.

 COMPARISON:  Chest radiographs from ___ through
 ___.

 The lungs are hyperexpanded.  Biapical scarring, right greater than left, is
 unchanged.

 IMPRESSION:  COPD.  No pneumonia.
''',
    findings=(
        'The lungs are hyperexpanded. Biapical scarring, right greater than left, is unchanged.'),
    impression='COPD. No pneumonia.'),

dict(
    style='a portable title is a sentence that goes on',
    text=''' INDICATION:  Desaturation.

 Portable AP view of the chest
 demonstrates clear lungs.  Right IJ line ends in the SVC.

 IMPRESSION:  No acute process.
''',
    findings=(
        'Portable AP view of the chest demonstrates clear lungs. Right IJ line ends in the SVC.'),
    impression='No acute process.'),

dict(
    style='opinion, in brackets and with measurements',
    text=''' CLINICAL INDICATION:  ?TB.
 FINDINGS:  Thick walled cavity (2.5 x 3.1 cm) in the right upper lobe; nodes (up to 1.5 cm).
 OPINION:  Findings of active TB (see above).
''',
    findings='Thick walled cavity (2.5 x 3.1 cm) in the right upper lobe; nodes (up to 1.5 cm).',
    impression='Findings of active TB (see above).'),

dict(
    style='other findings as a second heading',
    text=''' FINDINGS:  Left basilar consolidation.
 OTHER FINDINGS:  Cholecystectomy clips.
 IMPRESSION:  Pneumonia.
''',
    findings='Left basilar consolidation. Cholecystectomy clips.',
    impression='Pneumonia.'),

dict(
    style='date and record lines before the report',
    text='''DATE OF EXAM:  ___
ACCESSION NUMBER:  ___
REFERRING PHYSICIAN:  Dr. ___

EXAM:  CHEST (PORTABLE AP)

The left lung base is not included.  Otherwise clear.

IMPRESSION:  Limited, otherwise negative.
''',
    findings='The left lung base is not included. Otherwise clear.',
    impression='Limited, otherwise negative.'),

dict(
    style='single frontal view as title in capitals, comparison inside the sentence',
    text='''                                 FINAL REPORT
 SINGLE FRONTAL VIEW OF THE CHEST

 REASON FOR EXAM:  Status post aortic valve replacement.

 Comparison is made with prior study, ___.

 Mediastinal widening is stable.  Bibasilar atelectasis is larger on the left
 side.  There is no evident pneumothorax.
''',
    findings=(
        'Comparison is made with prior study. Mediastinal widening is stable. Bibasilar '
        'atelectasis is larger on the left side. There is no evident pneumothorax.'),
    impression=''),

dict(
    style='semi-erect title with a clock time and hours',
    text=''' INDICATION:  Cardiac arrest, intubated.

 SEMI-ERECT PORTABLE CHEST RADIOGRAPH ON ___ AT 0415 HOURS:  ETT tip is 5 cm above
 the carina.  Diffuse alveolar opacities.

 IMPRESSION:  Severe pulmonary edema.
''',
    findings='ETT tip is 5 cm above the carina. Diffuse alveolar opacities.',
    impression='Severe pulmonary edema.'),

dict(
    style='title over two lines',
    text=''' CLINICAL HISTORY:  Cough.

 FRONTAL AND LATERAL VIEWS OF
 THE CHEST:  Heart size is normal.  Lungs are clear.

 CONCLUSION:  Normal.
''',
    findings='Heart size is normal. Lungs are clear.',
    impression='Normal.'),

dict(
    style='wet read without a final line of underscores, findings and impression',
    text='''WET READ: ___ ___ 1:02 AM
 no ptx. line in svc.

 FINAL REPORT
 FINDINGS:  Right subclavian line ends in the SVC.  No pneumothorax.

 IMPRESSION:  Appropriate line position.

 NOTIFICATION:  None required.
''',
    findings='Right subclavian line ends in the SVC. No pneumothorax.',
    impression='Appropriate line position.'),

dict(
    style='impression in capitals within the description paragraph',
    text=''' EXAMINATION:  CHEST RADIOGRAPH

 The cardiomediastinal silhouette is normal.  There is no focal consolidation.

 IMPRESSION:  No acute intrathoracic process.  Recommendation: none.
''',
    findings='The cardiomediastinal silhouette is normal. There is no focal consolidation.',
    impression='No acute intrathoracic process.'),

dict(
    style='final addendum between report and signature',
    text=''' HISTORY:  ___ y/o M, s/p fall
 FINDINGS:  Nondisplaced fracture of the right seventh rib.
 IMPRESSION:  Rib fracture.
 FINAL ADDENDUM
 Sixth rib is also fractured.
 ELECTRONICALLY SIGNED BY:  ___
''',
    findings='Nondisplaced fracture of the right seventh rib.',
    impression='Rib fracture.'),

dict(
    style='examination and technique share a heading; numbered findings',
    text=''' EXAM/TECHNIQUE:  Portable chest, 1 view
 COMPARISON:  CT of ___
 FINDINGS:
 1. Left hydropneumothorax.
 2. Left chest tube, 10 French.
 IMPRESSION:
 As above.
''',
    findings='1. Left hydropneumothorax. 2. Left chest tube, 10 French.',
    impression='As above.'),

dict(
    style='views heading, then the description',
    text=''' VIEWS:  PA and lateral.

 COMPARISONS:  None.

 FINDINGS:  Azygos fissure, a normal variant.

 SUMMARY:  No disease.
''',
    findings='Azygos fissure, a normal variant.',
    impression='No disease.'),

dict(
    style='two titled descriptions, each with an impression',
    text=''' PORTABLE CHEST, ___ AT 2:20 A.M.:  Large right pneumothorax.

 IMPRESSION:  Right pneumothorax.

 PORTABLE CHEST, ___ AT 4:05 A.M.:  Chest tube placed, lung reexpanded.

 IMPRESSION:  Resolved pneumothorax.
''',
    findings='Large right pneumothorax. Chest tube placed, lung reexpanded.',
    impression='Right pneumothorax. Resolved pneumothorax.'),

dict(
    style='rib series with its own subheading inside the findings',
    text=''' FINDINGS:

 CHEST, PA AND LATERAL:  The lungs are clear.

 RIGHT RIBS, TWO VIEWS:  Fracture of the lateral eighth rib.

 IMPRESSION:  Right eighth rib fracture.
''',
    findings=(
        'CHEST, PA AND LATERAL: The lungs are clear. RIGHT RIBS, TWO VIEWS: Fracture of the '
        'lateral eighth rib.'),
    impression='Right eighth rib fracture.'),

dict(
    style='title case headings with texts below and no full stops',
    text='''Clinical Indication:
Chest pain

Findings:
Normal heart size
Clear lungs

Impression:
Normal chest radiograph
''',
    findings='Normal heart size Clear lungs',
    impression='Normal chest radiograph'),

dict(
    style='as compared to, description without heading, tabs and Windows line ends',
    text=(
        '\tFINAL REPORT\r\n'
        '\tINDICATION:\tHypoxia, NG tube.\r\n'
        '\t\r\n'
        '\tCOMPARISON:\t___.\r\n'
        '\t\r\n'
        '\tAs compared to the previous radiograph, the\r\n'
        '\tnasogastric tube has been advanced.\r\n'
        '\t\r\n'
        '\tNo other change.\r\n'),
    findings=(
        'As compared to the previous radiograph, the nasogastric tube has been advanced. No other '
        'change.'),
    impression=''),

dict(
    style='history in a sentence, capitals for emphasis',
    text=''' INDICATION:  History: ___F with chest pain.  Evaluate for PNEUMOTHORAX.

 FINDINGS:  NO pneumothorax.  Nipple shadows: bilateral.

 IMPRESSION:  NEGATIVE FOR PNEUMOTHORAX.
''',
    findings='NO pneumothorax. Nipple shadows: bilateral.',
    impression='NEGATIVE FOR PNEUMOTHORAX.'),

dict(
    style='chest portable line placement as heading',
    text=''' REASON FOR EXAMINATION:  New central line.

 CHEST PORTABLE LINE PLACEMENT:  A left subclavian line crosses the midline.
 No pneumothorax.

 IMPRESSION:  Line in the left brachiocephalic vein.
''',
    findings='A left subclavian line crosses the midline. No pneumothorax.',
    impression='Line in the left brachiocephalic vein.'),

dict(
    style='preliminary report heading before the report',
    text='''PRELIMINARY REPORT:  Possible right lower lobe pneumonia.

FINAL REPORT

EXAM: Chest, 2 views.

FINDINGS: Right lower lobe air bronchograms.

IMPRESSION: Right lower lobe pneumonia.  This supersedes the preliminary report.
''',
    findings='Right lower lobe air bronchograms.',
    impression='Right lower lobe pneumonia. This supersedes the preliminary report.'),
]
